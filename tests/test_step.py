"""The step: a lane equals the student alone, a NaN lane leaves its neighbours alone."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from harness.techniques import CLIPS, DISTILLS, QUANTISERS, optim
from harness.train.points import points_of, weighted_layers
from harness.train.step import Hparams, Plan, State, step

LANES = 3


def network() -> nn.Module:
    return (
        nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 5),
        )
        .double()
        .train()
    )


def plan_of(clip: str, distill: str, quantise: bool) -> Plan:
    module = network()
    return Plan(
        module,
        tuple(weighted_layers(module)),
        CLIPS[clip].load(),
        DISTILLS[distill].load(),
        optim.sgd,
        QUANTISERS["uniform"].load() if quantise else None,
    )


def t(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def stacked(plan: Plan, clip: str, distill: str) -> tuple[State, Hparams]:
    torch.manual_seed(0)
    params = {
        k: torch.stack([p.detach() + 0.1 * torch.randn_like(p) for _ in range(LANES)])
        for k, p in plan.module.named_parameters()
    }
    buffers = {k: torch.stack([b.clone() for _ in range(LANES)]) for k, b in plan.module.named_buffers()}
    masks = {name: (torch.rand_like(params[f"{name}.weight"]) > 0.3).double() for name in plan.layers}
    ranges = {
        name: (t([0.01, 0.02, 0.03]), t([0.0, 10.0, 100.0]))
        for names in points_of(plan.module).values()
        for name in names
    }
    hparams = Hparams(
        progress=t([1.0] * LANES),
        clip={} if clip == "none" else {"threshold": t([0.05, 0.5, float("inf")])},
        quant={"bits": t([2.0, 5.0, 32.0]), "start": t([0.0] * LANES)},
        distill={} if distill == "none" else {"weight": t([0.0, 0.4, 1.0]), "temperature": t([1.0, 2.0, 5.0])},
        optim={
            "lr": t([0.1, 0.05, 0.2]),
            "momentum": t([0.9, 0.5, 0.0]),
            "weight_decay": t([0.0, 1e-3, 1e-2]),
            "step": t([1.0] * LANES),
        },
    )
    return State(params, buffers, optim.init("sgd", params), masks, ranges), hparams


def lane(tree, i: int):
    """Lane ``i`` of a state, of hyperparameters, or of any nesting of dicts and tuples."""
    if isinstance(tree, torch.Tensor):
        return tree[i]
    if isinstance(tree, dict):
        return {k: lane(v, i) for k, v in tree.items()}
    if isinstance(tree, tuple):
        return tuple(lane(v, i) for v in tree)
    return replace(tree, **{k: lane(v, i) for k, v in vars(tree).items()})


def run(plan: Plan, state: State, hparams: Hparams, over=None, steps: int = 4) -> tuple[State, dict]:
    generator = torch.Generator().manual_seed(1)
    metrics: dict = {}
    for _ in range(steps):
        x = torch.rand(8, 1, 6, 6, generator=generator, dtype=torch.float64)
        batch = (
            x,
            torch.randint(0, 5, (8,), generator=generator),
            torch.randn(8, 5, generator=generator, dtype=torch.float64),
        )
        state, metrics = step(plan, state, batch, hparams, over)
    return state, metrics


@pytest.mark.parametrize("quantise", [False, True])
@pytest.mark.parametrize("distill", sorted(DISTILLS))
@pytest.mark.parametrize("clip", sorted(CLIPS))
def test_a_lane_equals_the_student_alone(clip, distill, quantise):
    plan = plan_of(clip, distill, quantise)
    state, hparams = stacked(plan, clip, distill)
    together, metrics = run(plan, state, hparams, torch.vmap)
    for i in range(LANES):
        alone, own = run(plan, lane(state, i), lane(hparams, i))
        for name, p in alone.params.items():
            torch.testing.assert_close(together.params[name][i], p, rtol=1e-12, atol=1e-12)
        for name, b in alone.buffers.items():
            torch.testing.assert_close(together.buffers[name][i], b, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(metrics["loss"][i], own["loss"], rtol=1e-12, atol=1e-12)
        assert bool(metrics["clipped"][i]) == bool(own["clipped"])


def test_a_nan_lane_leaves_its_neighbours_bit_equal():
    plan = plan_of("norm", "logits", True)
    state, hparams = stacked(plan, "norm", "logits")
    clean, _ = run(plan, state, hparams, torch.vmap)
    broken = replace(state, params={k: v.clone() for k, v in state.params.items()})
    broken.params["5.weight"][1] = float("nan")
    after, metrics = run(plan, broken, hparams, torch.vmap)
    assert torch.isnan(metrics["loss"][1])
    for name, p in clean.params.items():
        assert torch.equal(after.params[name][[0, 2]], p[[0, 2]])


def test_a_step_leaves_its_inputs_as_they_were():
    plan = plan_of("norm", "logits", False)
    state, hparams = stacked(plan, "norm", "logits")
    single, given = lane(state, 0), lane(hparams, 0)
    before = {k: v.clone() for k, v in {**single.params, **single.buffers}.items()}
    run(plan, single, given, steps=1)
    assert all(torch.equal(v, before[k]) for k, v in {**single.params, **single.buffers}.items())
