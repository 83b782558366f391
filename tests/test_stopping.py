"""Early stopping, lanes and budgets in the driver's loop, on the fake trials of ``tests.searching``."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from harness.records import read_record
from harness.search import budget
from harness.search.budget import Budget
from harness.search.lane_groups import in_lanes, lane_key
from harness.search.queues import LabQueue
from harness.search.rules import make_rule, rule_of
from harness.search.state import Search
from tests import fake_trial
from tests.jobs import job
from tests.searching import SPACE, Here, run, search_here, space_of, started, trials_of

LONG = ("train.epochs=20", "search.trials=40")


def stopped(folder: Path) -> dict[int, str]:
    """Reasons of the trials that were stopped, and stayed so."""
    gone_on = {t.user_attrs.get("continues") for t in trials_of(folder)}
    return {
        t.number: t.user_attrs["reason"]
        for t in trials_of(folder)
        if t.state is TrialState.PRUNED and "after epoch" in t.user_attrs.get("reason", "") and t.number not in gone_on
    }


@pytest.mark.parametrize("rule", ["dominated", "moasha"])
def test_stopped_trials_are_pruned_with_a_reason_and_never_on_the_front(box, rule):
    outcome = run(box, f"search.stop={rule}", *LONG)
    folder = box / "study"
    found = stopped(folder)
    assert outcome.status == "complete" and outcome.finished == 40 and outcome.stopped == len(found) > 5
    assert not set(found) & set(outcome.front)
    for number, reason in found.items():
        record = read_record(folder / "trials" / f"{number:05d}")
        assert record.status == "stopped" and record.reason == reason and record.artifact is None
        assert {"size_bytes", "latency_ms"} <= set(record.measurements) and "accuracy" not in record.measurements
        assert 0 < record.diagnostics["epochs"] < 20
        assert not (folder / "trials" / f"{number:05d}" / "untrained.onnx").exists()
    trials = {t.number: t for t in trials_of(folder)}
    assert all(trials[n].constraints["stopped"] == 1 for n in found), "the sampler learns that it failed"
    assert all(t.constraints["stopped"] == 0 for t in trials.values() if t.state is TrialState.COMPLETE)
    assert all(trials[n].values is None for n in found)
    summary = json.loads((folder / "study.json").read_text())
    trained = sum(read_record(p).diagnostics["epochs"] for p in (folder / "trials").iterdir())
    assert summary["stopped"] == len(found) and summary["epochs"] == trained < 40 * 20


def test_dominated_stops_nothing_that_would_have_been_on_the_front(box):
    outcome = run(box, "search.stop=dominated", *LONG)
    folder = box / "study"
    for number in stopped(folder):
        trial = box / "again" / str(number)
        tree = read_record(folder / "trials" / f"{number:05d}").recipe
        accuracy = fake_trial.run(job(tree, trial, number), {}).value("accuracy")
        costs = read_record(folder / "trials" / f"{number:05d}")
        front = [read_record(folder / "trials" / f"{n:05d}") for n in outcome.front]
        assert any(
            f.value("accuracy") >= accuracy
            and f.value("size_bytes") <= costs.value("size_bytes")
            and f.value("latency_ms") <= costs.value("latency_ms")
            for f in front
        )


LEARNING = ("search.stop=dominated", "train.epochs=20", "search.sampler=random")


def test_a_resumed_study_goes_on_with_what_the_rule_had_learned(box):
    run(box, *LEARNING, "search.trials=25")
    before = len(stopped(box / "study"))
    outcome = run(box, *LEARNING, "search.trials=40")
    assert outcome.finished == 40 and outcome.stopped == len(stopped(box / "study")) > before
    (box / "study" / "study.log").write_bytes(b"")
    rebuilt = run(box, *LEARNING, "search.trials=41", rebuild=True)
    assert rebuilt.finished == 41 and rebuilt.stopped == len(stopped(box / "study")) > 0


def test_a_resumed_rule_knows_what_the_first_one_did(box):
    rules = []

    def remembered(space):
        rules.append(rule_of(space))
        return rules[-1]

    run(box, *LEARNING, "search.trials=80", make_rule=remembered)
    run(box, *LEARNING, "search.trials=81", make_rule=remembered)
    curves = [rule.forecast.done for rule in rules]
    first, second = (sorted((c.rungs[1], c.final, c.flagged, c.exempt, c.places) for c in done) for done in curves)
    assert any(flagged and exempt < 1 for _, _, flagged, exempt, _ in first), "or there was nothing to know"
    assert [c for c in second if c in first] == first and len(second) <= len(first) + 1


def test_a_rule_that_cannot_judge_stops_nothing(box):
    text = SPACE + "objectives: [size_bytes, latency_ms]\n"
    space = space_of(box, "search.stop=dominated", *LONG, text=text)
    outcome = search_here(space, box / "study")
    assert outcome.finished == 40 and outcome.stopped == 0


def groups(box: Path) -> list[list[int]]:
    return [[int(n) for n in line.split()] for line in (box / "groups").read_text().splitlines()]


def test_lanes_share_their_structure_and_nothing_else(box):
    outcome = run(box, "search.lanes=4", "search.trials=40", "search.stop=dominated", "train.epochs=20")
    assert outcome.finished == 40
    found = groups(box)
    assert max(len(g) for g in found) == 4 and sum(len(g) > 1 for g in found) >= 5
    for group in found:
        recipes = [read_record(box / "study" / "trials" / f"{n:05d}").recipe for n in group]
        assert len({(r["student"]["width"], r["clip"]["kind"]) for r in recipes}) == 1
        assert len({json.dumps({**r, "seed": 0}) for r in recipes}) == len(recipes)
    assert len(started(box)) == len(set(started(box)))


@pytest.mark.parametrize(
    ("trials", "set_to", "lanes"), [(60, None, 1), (599, None, 1), (600, None, 4), (9999, None, 16), (60, 8, 8)]
)
def test_few_trials_run_alone_and_many_in_lanes(trials, set_to, lanes):
    space = SimpleNamespace(settings=SimpleNamespace(lanes=set_to))
    assert Search(space, *[None] * 6, Budget(trials), *[None] * 3).lanes == lanes


def test_what_a_budget_is_worth_in_trials():
    assert Budget(None, epochs=1000).expected(finished=0, epochs=0, told=0) == 0
    assert Budget(None, epochs=1000).expected(finished=30, epochs=300, told=10) == 100
    assert Budget(50, epochs=1000).expected(finished=30, epochs=300, told=10) == 50
    ten_s_ago = time.monotonic() - 10
    assert Budget(None, seconds=1800, started=ten_s_ago).expected(0, 0, told=20) == pytest.approx(3600, rel=0.1)


@pytest.mark.parametrize(
    ("name", "carried"),
    [
        ("train.lr", True),
        ("clip.threshold", True),
        ("quant.bits", True),
        ("distill.weight", True),
        ("clip", False),
        ("clip.kind", False),
        ("train.epochs", False),
        ("prune.ratio", False),
        ("student.width", False),
        ("teacher.lr", False),
    ],
)
def test_what_lanes_carry(name, carried):
    assert in_lanes(name) is carried


def test_the_key_is_that_of_the_structure(box):
    space = space_of(box)
    base = {h.internal: h.default for h in space.holes if not h.parents}
    one = space.fill(base, 1)
    assert lane_key(one) == lane_key(space.fill({**base, "train.lr": 0.2, "quant.bits": 0}, 2))
    assert lane_key(one) != lane_key(space.fill({**base, "student.width": 2}, 1))


def test_epochs_bound_a_search(box):
    outcome = run(box, "search.epochs_total=200", "train.epochs=20")
    summary = json.loads((box / "study" / "study.json").read_text())
    assert outcome.status == "complete" and 200 <= summary["epochs"] <= 240
    assert run(box, "search.epochs_total=200", "train.epochs=20").status == "already complete"


def test_time_bounds_a_search(box, monkeypatch):
    clock = [0.0]

    def now() -> float:
        clock[0] += 0.25
        return clock[0]

    monkeypatch.setattr(budget.time, "monotonic", now)
    text = SPACE.replace("trials: 14, ", "time_s: 30, ")
    outcome = search_here(space_of(box, text=text), box / "study")
    assert outcome.status == "complete" and 4 < outcome.finished < 60
    names = [t.user_attrs.get("baseline", "") for t in trials_of(box / "study") if "recipe" in t.user_attrs]
    assert names[:6] == ["widest-fp32", "widest-int8", "", "width-sweep", "", "width-sweep"]
    assert not any(names[6:]), "every baseline once"


def test_sixty_trials_where_no_budget_is_given(box):
    assert Budget.of(space_of(box, text=SPACE.replace("trials: 14, ", "")).settings).trials == 60
    assert Budget.of(space_of(box, text=SPACE.replace("trials: 14, ", "time_s: 5, ")).settings).trials is None


@pytest.mark.parametrize(("stop", "late"), [("dominated", True), ("moasha", False), ("none", False)])
def test_a_structure_waits_for_seconds_at_most_where_rungs_are_close(monkeypatch, stop, late):
    waiting, often = LabQueue(), make_rule(stop).often
    assert not waiting.is_due(slots=2, told=99, stops_often=often), "nothing waits"
    waiting.add_trained(SimpleNamespace(structure="new"), told=3)
    assert not waiting.is_due(slots=2, told=3, stops_often=often)
    assert waiting.is_due(slots=2, told=11, stops_often=often)
    now = time.monotonic() + 6
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert waiting.is_due(slots=2, told=3, stops_often=often) == late


def test_a_rule_knows_the_costs_of_baselines_before_they_train(box):
    jobs: list[tuple[str, int]] = []

    class Noting(Here):
        def submit(self, job, name, *args, **options):
            jobs.append((name, job))
            super().submit(job, name, *args, **options)

    text = SPACE.replace("trials: 14, ", "trials: 14, stop: dominated, ")
    search_here(space_of(box, text=text), box / "study", make_pool=lambda *_: Noting())
    for number in range(4):
        assert jobs.index(("untrained", number)) < jobs.index(("start", number))
