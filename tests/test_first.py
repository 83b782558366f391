"""First trials: what a space and an earlier study say is tried before the sampler proposes."""

import pytest

from harness.errors import SpaceError
from harness.records import read_record
from harness.report.loading import load_study
from harness.space.starting_points import COMPRESSION, express, spread_out, starting_points
from tests.searching import SPACE, run, search_here, space_of

FIRST = """
first:
  - {student: {width: 8}, quant: {bits: 4}, clip: {kind: norm, threshold: 0.5}}
  - {train: {lr: 0.25, epochs: 1}}
"""


def recipes(folder):
    found = [read_record(p) for p in sorted((folder / "trials").iterdir())]
    return [r.recipe for r in found if not r.baseline]


def go(space, folder, **options):
    return search_here(space, folder, **options)


def test_the_spaces_own_come_first_and_the_sampler_fills_the_rest(box):
    go(space_of(box, text=SPACE + FIRST), box / "study")
    one, two = recipes(box / "study")[:2]
    assert one["student"]["width"] == 8 and one["quant"]["bits"] == 4
    assert one["clip"] == {"kind": "norm", "threshold": 0.5} and 0 <= one["distill"]["weight"] <= 1
    assert two["train"]["lr"] == 0.25


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("first: [{train: {lr: 7}}]", "first.0.train.lr: must be a value that the space can take there"),
        ("first: [{train: {epochs: 9}}]", "first.0.train.epochs"),
        ("first: [{student: {width: 8}}, {quant: {bits: 5}}]", "first.1.quant.bits"),
        ("first: {train: {lr: 0.1}}", "first: must be a list of recipes"),
    ],
)
def test_what_the_space_cannot_take_is_refused(box, text, said):
    with pytest.raises(SpaceError) as caught:
        space_of(box, text=SPACE + text + "\n")
    assert said in str(caught.value)


def test_an_earlier_front_starts_another_study(box):
    earlier = run(box, "search.trials=20", name="earlier")
    other = SPACE.replace("{choice: [4, 8, 16]}", "{choice: [8, 16, 32]}").replace("seed: 1", "seed: 2")
    space = space_of(box, text=other)
    go(space, box / "study", warm_start=box / "earlier")
    front = [read_record(box / "earlier" / "trials" / f"{n:05d}").recipe for n in earlier.front]
    rates = [r["train"]["lr"] for r in front]
    tried = [r["train"]["lr"] for r in recipes(box / "study")]
    assert sum(any(abs(a - b) < 1e-12 for b in rates) for a in tried) >= min(len(front), 5)
    again = go(space_of(box, "search.trials=16", text=other), box / "study", warm_start=box / "earlier")
    assert again.finished == 16, "a study that has begun is not started again"


def test_spread_out_points_cover_each_hole_evenly_and_leave_training_at_its_defaults(box):
    space = space_of(box)
    points = spread_out(space.holes, space.sample, 12, seed=3)
    holes = {h.internal: h for h in space.holes}
    for name, hole in holes.items():
        taken = [p[name] for p in points if name in p]
        if hole.name.split(".")[0] not in COMPRESSION:
            assert set(taken) <= {hole.default}
        elif hole.kind == "choice":
            assert sorted(taken) == sorted(i % len(hole.choices) for i in range(12)), "each as often as the others"
        else:
            assert sorted(hole.places(v)[0] for v in taken) == pytest.approx([(i + 0.5) / 12 for i in range(12)])
    assert points == spread_out(space.holes, space.sample, 12, seed=3) != spread_out(space.holes, space.sample, 12, 4)


PRUNE = """prune:
  choice:
    - {kind: none}
    - {kind: channel, ratio: {float: [0.1, 0.9]}, round_to: 4}
    - {kind: weight, ratio: {choice: [0.5, 0.8, 0.9]}}
"""


def small(space, n):
    """The first recipes of ``n`` starting points: width, pruning, bits."""
    trees = [space.fill(p).to_tree() for p in starting_points(space.holes, space.sample, n, seed=0)]
    return [(t["student"]["width"], t["prune"].get("ratio"), t["quant"]["bits"]) for t in trees]


def test_the_smallest_models_come_first_and_are_a_third_at_most(box):
    space = space_of(box, text=SPACE + "prune: {kind: channel, ratio: {float: [0, 0.8]}, round_to: 4}\n")
    assert small(space, 12)[:2] == [(4, 0.8, 32), (4, 0.4, 32)]
    rest = starting_points(space.holes, space.sample, 12, seed=0)[2:]
    assert rest == spread_out(space.holes, space.sample, 10, seed=0), "the others cover the space"
    assert [small(space, n).count((4, 0.8, 32)) for n in (2, 3, 5)] == [0, 1, 1]
    assert (4, 0.4, 32) not in small(space, 5)
    [first, *_] = starting_points(space.holes, space.sample, 12, seed=0)
    defaults = {h.internal: h.default for h in space.holes if h.name.split(".")[0] not in COMPRESSION}
    assert {name: code for name, code in first.items() if name in defaults}.items() <= defaults.items()


def test_the_smallest_model_is_pruned_by_the_first_method_that_prunes(box):
    assert small(space_of(box, text=SPACE + PRUNE), 12)[:2] == [(4, 0.9, 32), (4, 0.5, 32)]


def test_where_nothing_prunes_there_is_one_smallest_model(box):
    space = space_of(box)
    points = starting_points(space.holes, space.sample, 12, seed=0)
    assert small(space, 12)[0] == (4, None, 32)
    assert points[1:] == spread_out(space.holes, space.sample, 11, seed=0)


@pytest.mark.parametrize(("sampler", "expected"), [("tpe", 5), ("random", 0), ("sobol", 0)])
def test_tpe_begins_with_points_to_know_the_space_by_and_the_others_as_they_are(box, sampler, expected):
    space = space_of(box, f"search.sampler={sampler}", "search.trials=20")
    go(space, box / "study")
    points = starting_points(space.holes, space.sample, 5, space.settings.seed)
    found = [r.params for p in sorted((box / "study" / "trials").iterdir()) if not (r := read_record(p)).baseline]
    assert [p for p in found if p in points] == points[:expected]


def test_no_point_that_is_spread_out_repeats_a_baseline_or_another(box):
    text = SPACE.replace("{float: [0.01, 0.3], log: true}", "0.1").replace("[2, 4, 8, 32]", "[8, 32]")
    space = space_of(box, "search.trials=48", "search.sampler=tpe", text=text.split("clip:")[0] + "search: {seed: 1}\n")
    go(space, box / "study")
    names = [p.name for p in (box / "study" / "trials").iterdir()]
    assert sorted(names) == [f"{n:05d}" for n in range(6)], "six recipes, none of them asked for twice"


def test_no_study_to_start_from_is_refused(box):
    with pytest.raises(SpaceError, match="--warm-start"):
        go(space_of(box), box / "study", warm_start=box / "nowhere")


def test_what_cannot_be_expressed_is_left_to_the_sampler(box):
    space = space_of(box)
    leaves = {"student.width": 5, "train.lr": 0.05, "clip.kind": "norm", "clip.threshold": 99.0, "quant.bits": 8}
    found = express(space.holes, leaves)
    assert found["train.lr"] == 0.05 and found["quant.bits"] == 2 and found["clip"] == 1
    assert "student.width" not in found and not any("threshold" in name for name in found)


NAMED = "first: [{{name: {name}, train: {{lr: 0.02}}}}]"


def test_a_named_first_trial_keeps_its_name(box):
    outcome = go(space_of(box, text=SPACE + NAMED.format(name="the old recipe")), box / "study")
    records = [read_record(p) for p in sorted((box / "study" / "trials").iterdir())]
    [named] = [r for r in records if r is not None and r.baseline == "the old recipe"]
    assert named.recipe["train"]["lr"] == 0.02 and outcome.finished == len(records)
    assert load_study(box / "study").named["number"].tolist() == [named.number]


@pytest.mark.parametrize("name", ["widest-fp32", "3", "[a]"])
def test_a_name_must_be_a_text_of_its_own(box, name):
    with pytest.raises(SpaceError, match=r"first.0.name: must be a text that no baseline has"):
        space_of(box, text=SPACE + NAMED.format(name=name))
