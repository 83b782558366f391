"""Students side by side: each as if it had trained alone, through removal, rounding and failure."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from harness.errors import TrialError
from harness.recipe import parse_recipe
from harness.registries import REGISTRIES
from harness.train import lanes
from harness.train.fit import advance, finish, fit
from harness.train.schedule import begin
from tests.quadrants import accuracy, examples, network

EACH = [  # lr, ratio, bits, threshold
    (0.1, 0.5, 4, 1.0),
    (0.05, 0.25, 32, 0.2),
    (0.2, 0.5, 2, 5.0),
    (0.1, 0.0, 8, 1.0),
]


def recipes(epochs: int = 6):
    return [
        parse_recipe(
            {
                "task": {"name": "digits"},
                "student": {"model": "convnet", "width": 8},
                "train": {"epochs": epochs, "batch_size": 32, "lr": lr},
                "clip": {"kind": "norm", "threshold": threshold},
                "prune": {"kind": "channel", "ratio": ratio, "at": 0.3},
                "quant": {"bits": bits, "start": 0.5},
                "seed": seed,
            },
            REGISTRIES,
        )
        for seed, (lr, ratio, bits, threshold) in enumerate(EACH)
    ]


def double(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return network().double()


def double_examples():
    data = examples()
    return lanes.Examples(data.x.double(), data.y)


@pytest.fixture
def forced(monkeypatch):
    """Side by side in the given form, however fast it is; remembers how many ran together."""
    sizes: list[int] = []

    def force(form: str) -> list[int]:
        def chosen(students, *_):
            sizes.append(len(students))
            return form if len(students) > 1 else "alone"

        monkeypatch.setattr(lanes, "fastest", chosen)
        return sizes

    return force


@pytest.mark.parametrize("form", ["stacked", "mapped"])
def test_each_student_trains_as_if_alone(forced, form):
    data = double_examples()
    alone = [fit(recipe, double(7), data) for recipe in recipes()]
    sizes = forced(form)
    runs = advance([begin(recipe, double(7), data) for recipe in recipes()], 6)
    assert sizes[:2] == [4, 4], "equal until channels are removed"
    assert set(sizes[2:]) <= {1, 2}, "those that were cut alike stay together, until one of them is rounded"
    for run, wanted in zip(runs, alone, strict=True):
        trained = finish(run)
        state, expected = trained.module.state_dict(), wanted.module.state_dict()
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-10)
        assert (trained.quantized is None) == (wanted.quantized is None)
        assert trained.diagnostics["channels_kept"] == wanted.diagnostics["channels_kept"]
        assert [row["epoch"] for row in trained.history] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("form", "quant"),
    [
        ("stacked", {}),
        ("stacked", {"kind": "uniform", "bits": 1}),
        ("mapped", {"kind": "lsq", "bits": 1}),
        ("stacked", {"kind": "dorefa", "bits": 2}),
        ("stacked", {"kind": "standardized", "bits": 3}),
        ("stacked", {"kind": "power_of_two", "bits": 3}),
        ("stacked", {"kind": "uniform", "bits": 4, "range": "percentile", "percentile": 95}),
    ],
)
def test_lanes_of_sparse_students_equal_them_alone(forced, form, quant):
    data = double_examples()
    made = [
        parse_recipe(
            {**r.to_tree(), "prune": {"kind": "weight", "ratio": ratio}, **({"quant": quant} if quant else {})},
            REGISTRIES,
        )
        for r, ratio in zip(recipes(), (0.9, 0.5, 0.7, 0.2), strict=True)
    ]
    alone = [fit(r, double(7), data) for r in made]
    sizes = forced(form)
    runs = advance([begin(r, double(7), data) for r in made], 6)
    assert max(sizes) == 4
    for run, wanted in zip(runs, alone, strict=True):
        state = finish(run).module.state_dict()
        for name, value in wanted.module.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-10)
            assert torch.equal(state[name] == 0, value == 0)


def test_float32_lanes_stay_within_the_tolerance(forced):
    data = examples()
    wanted = [fit(recipe, _seeded(), data) for recipe in recipes()[:2]]
    forced("stacked")
    for run, alone in zip(advance([begin(r, _seeded(), data) for r in recipes()[:2]], 6), wanted, strict=True):
        trained = finish(run)
        assert abs(accuracy(trained, data) - accuracy(alone, data)) <= 2 / len(data.y)


def _seeded() -> nn.Module:
    torch.manual_seed(7)
    return network()


def test_a_failed_student_leaves_and_the_others_go_on(forced):
    data = double_examples()
    made = recipes()
    made[1] = replace(made[1], train=replace(made[1].train, lr=1e300))
    wanted = fit(made[0], double(7), data)
    sizes = forced("stacked")
    runs = advance([begin(r, double(7), data) for r in made[:3]], 6)
    assert isinstance(runs[1], TrialError) and "nonfinite" in str(runs[1])
    assert sizes[0] == 3 and sizes[1] == 2
    for name, value in wanted.module.state_dict().items():
        torch.testing.assert_close(finish(runs[0]).module.state_dict()[name], value, rtol=1e-9, atol=1e-10)


def test_training_in_parts_is_training_at_once():
    data = examples()
    whole = fit(recipes()[0], _seeded(), data)
    runs = [begin(recipes()[0], _seeded(), data)]
    for until in (1, 3, 6):
        runs = advance(runs, until)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(finish(runs[0]).module.state_dict()[name], value)


def test_the_choice_of_a_form_is_measured_checked_and_remembered(monkeypatch):
    data, made = examples(), recipes()[:2]
    lanes._FASTEST.clear()
    seconds = {"alone": 3.0, "stacked": 2.0, "mapped": 4.0}
    asked = []

    def fake(plan, state, *_):
        form = (
            "alone"
            if state.params.dim() == 1
            else "mapped"
            if plan.forward.__qualname__.startswith("mapped")
            else "stacked"
        )
        asked.append(form)
        return seconds[form] / (2 if form == "alone" else 1)

    monkeypatch.setattr(lanes, "_seconds", fake)

    def choose():
        runs = [begin(r, _seeded(), data) for r in made]
        students = [lanes.Student(r.module, r.plan, r.state, r.hparams) for r in runs]
        return lanes.fastest(students, data, torch.arange(64).reshape(2, 32))

    assert choose() == "stacked" and choose() == "stacked" and len(asked) == 3
    lanes._FASTEST.clear()
    seconds["stacked"] = 5.0
    assert choose() == "alone", "never slower than one at a time"
    lanes._FASTEST.clear()
    seconds.update(stacked=1.0)
    monkeypatch.setattr(lanes, "stacked", lambda module, k: lambda *given: ({"logits": torch.zeros(k, 32, 4)}, {}))
    assert choose() == "alone", "a form that computes something else is never chosen"
