"""Rollback: a share goes, of channels, of single weights or of both; what costs too much comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from harness.errors import SpaceError
from harness.export.export import export
from harness.export.template import Templates
from harness.recipe import Recipe, parse_recipe
from harness.registries import REGISTRIES
from harness.train.fit import Trained, fit
from harness.train.lanes import Examples
from harness.train.pruning import enter
from harness.train.schedule import begin

SHAPE = (1, 4, 4)


def recipe(**prune: Any) -> Recipe:
    tree = {
        "task": {"name": "digits"},
        "student": {"model": "mlp", "hidden": [40]},
        "train": {"epochs": 4, "batch_size": 32, "lr": 0.05},
        "prune": {"kind": "rollback", "at": 0.0, **prune},
    }
    return parse_recipe(tree, REGISTRIES)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 4))


def examples() -> Examples:
    """Class k is bright in row k."""
    g = torch.Generator().manual_seed(1)
    y = torch.randint(0, 4, (256,), generator=g)
    x = 0.5 * torch.randn(256, *SHAPE, generator=g)
    x[torch.arange(256), 0, y] += 1.5
    return Examples(x, y)


def trained(**prune: Any) -> Trained:
    return fit(recipe(**prune), network(), examples())


def zeros(module: nn.Module) -> list[float]:
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return [float((m.weight == 0).float().mean()) for m in layers]


@pytest.mark.parametrize("score", ["l2", "random"])
def test_single_weights_reach_the_ratio_where_nothing_is_taken_back(score: str) -> None:
    found = trained(of="weights", ratio=0.6, tolerance=1.0, score=score)
    assert zeros(found.module) == pytest.approx([round(0.6 * 640) / 640, round(0.6 * 160) / 160])
    assert found.sparse and found.module[1].weight.shape == (40, 16), "weights are masked, neurons stay"


def test_the_file_holds_the_zeros(tmp_path: Any) -> None:
    found = trained(of="weights", ratio=0.9, tolerance=1.0, score="random")
    path = tmp_path / "model.onnx"
    export(found, Templates(tmp_path / "graphs"), path, SHAPE, (0.0,), (1.0,))
    dense = trained(of="weights", ratio=0.0)
    other = tmp_path / "dense.onnx"
    export(dense, Templates(tmp_path / "graphs"), other, SHAPE, (0.0,), (1.0,))

    def floats(file: Any) -> int:
        held = [onnx.numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer]
        return sum(int(np.count_nonzero(a)) for a in held if a.dtype == np.float32 and a.size > 4)

    assert floats(path) < 0.2 * floats(other), "a tenth of the weights, and the biases"


def test_what_costs_too_much_comes_back() -> None:
    data = examples()
    found = trained(of="weights", ratio=0.95, tolerance=0.0, score="random", step=0.3, attempts=5, at=0.5)
    with torch.no_grad():
        right = (found.module(data.x).argmax(1) == data.y).float().mean()
    assert right > 0.9 and max(zeros(found.module)) < 0.95
    free = trained(of="weights", ratio=0.95, tolerance=1.0, score="random", step=0.3, at=0.5)
    with torch.no_grad():
        assert (free.module(data.x).argmax(1) == data.y).float().mean() < right


def reader(**prune: Any) -> Any:
    """A run whose network is made by hand: neuron k sums row k, output k reads neuron k; all else is 0."""
    run = begin(recipe(of="weights", **prune), network(), examples())
    hidden, output = torch.zeros(40, 4, 4), torch.zeros(4, 40)
    for k in range(4):
        hidden[k, k] = output[k, k] = 1.0
    flat = torch.cat([hidden.flatten(), torch.zeros(40), output.flatten(), torch.zeros(4)])
    return replace(run, state=replace(run.state, params=flat))


def test_a_failed_attempt_leaves_no_trace_in_the_student() -> None:
    run = reader(ratio=0.9, tolerance=0.0, step=0.9, score="random")
    after = enter(run, 0.5)
    assert after.state.masks == {} and torch.equal(after.state.params, run.state.params)
    assert (after.attempts, after.removed) == (1, 0.0)


@pytest.mark.parametrize(("score", "stride"), [("random", 0.999), ("l2", 0.999 / 2)])
def test_after_a_failed_attempt_a_ranked_one_takes_half_and_a_random_one_draws_anew(score: str, stride: float) -> None:
    after = enter(reader(ratio=0.999, tolerance=0.0, step=0.999, score=score), 0.5)
    assert after.removed == 0 and after.stride == pytest.approx(stride)


def test_an_epoch_makes_as_many_failing_attempts_as_are_allowed() -> None:
    after = enter(reader(ratio=0.9, tolerance=0.0, step=0.9, score="random", attempts=7), 0.5)
    assert (after.attempts, after.removed) == (7, 0.0)
    ranked = enter(reader(ratio=0.9, tolerance=0.0, step=0.9, score="l2"), 0.5)
    assert ranked.removed == 0.9, "what the network does not read costs nothing"


def test_two_attempts_choose_differently() -> None:
    run = begin(recipe(of="weights", ratio=0.5, step=0.5, tolerance=1.0, score="random"), network(), examples())
    one, other = (enter(replace(run, attempts=n), 0.5).state.masks["1"] for n in (0, 1))
    assert float((one != other).float().mean()) == pytest.approx(0.5, abs=0.1), "independent halves differ in a half"


def test_both_remove_neurons_and_then_weights() -> None:
    found = trained(of="both", ratio=0.5, tolerance=1.0, score="random")
    assert found.module[1].weight.shape == (20, 16) and found.module[3].weight.shape == (4, 20)
    assert zeros(found.module) == pytest.approx([0.5, 0.5])


def test_a_step_below_the_smallest_still_begins() -> None:
    found = trained(of="weights", ratio=0.02, step=0.005, tolerance=1.0)
    assert zeros(found.module)[0] == pytest.approx(0.02, abs=0.002)


@pytest.mark.parametrize(
    ("prune", "message"),
    [
        ({"of": "weights", "ratio": 0.5, "score": "taylor"}, r"prune.score: must be one of l1, l2, random"),
        (
            {"kind": "channel", "scope": "global", "ratio": {"default": 0.5, "first": 0.0}},
            r"prune.ratio: must be one number where `scope` is global",
        ),
        (
            {"kind": "weight", "scope": "global", "ratio": {"default": 0.5, "first": 0.0}},
            r"prune.ratio: must be one number where `scope` is global",
        ),
    ],
)
def test_options_that_do_not_go_together(prune: dict[str, Any], message: str) -> None:
    if "kind" in prune:
        tree = {"task": {"name": "digits"}, "student": {"model": "mlp"}, "prune": prune}
        made = parse_recipe(tree, REGISTRIES)
    else:
        made = recipe(**prune)
    with pytest.raises(SpaceError, match=message):
        begin(made, network(), examples())


def test_the_structure_is_known_before_training_unless_layers_are_ranked_together() -> None:
    pruners = REGISTRIES.pruners
    assert pruners["channel"].knows_structure({"scope": "layer"})
    assert not pruners["channel"].knows_structure({"scope": "global"})
    assert not pruners["rollback"].knows_structure({}) and not pruners["weight"].knows_structure({"scope": "layer"})
