"""The step: a lane equals the student alone, a NaN lane leaves its neighbors alone."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from harness.models.add import Add
from harness.techniques import CLIPS, DISTILLS, QUANTIZERS
from harness.techniques import optimizers as optim
from harness.train.forward import mapped, plain, single, stacked
from harness.train.lanes import lane, stack
from harness.train.quantization_points import points_of, weighted_layers
from harness.train.step import Hparams, Layout, Plan, State, step

LANES = 3


class Residual(nn.Module):
    """A convolution, a norm and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.add = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), Add()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.add(self.norm(self.conv(x)), x))


NETWORKS = {
    "conv": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
    ),
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 5, bias=False)),
    "residual": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), Residual(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 5)
    ),
}


def plan_of(network: str, clip: str, distill: str, quantize: bool) -> tuple[nn.Module, Plan]:
    module = NETWORKS[network]().double()
    plan = Plan(
        forward=single(module),
        layout=Layout.of(dict(module.named_parameters())),
        layers=tuple(weighted_layers(module)),
        clip=CLIPS[clip].load(),
        distill=DISTILLS[distill].load(),
        optimize=optim.sgd,
        quantize=QUANTIZERS["uniform"].load() if quantize else None,
        rounded=tuple(weighted_layers(module)) if quantize else (),
    )
    return module, plan


def t(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def students(module: nn.Module, plan: Plan, clip: str, distill: str) -> list[tuple[State, Hparams]]:
    """Three students of one structure, everything else different."""
    torch.manual_seed(0)
    made = []
    for i in range(LANES):
        params = {k: p.detach() + 0.1 * torch.randn_like(p) for k, p in module.named_parameters()}
        flat = Layout.join(params)
        masks = {name: (torch.rand_like(params[f"{name}.weight"]) > 0.3).double() for name in plan.layers}
        ranges = {
            name: (t([0.01, 0.02, 0.03][i]), t([0.0, 10.0, 100.0][i]), t([255.0, 15.0, 255.0][i]))
            for names in points_of(module).values()
            for name in names
        }
        hparams = Hparams(
            clip={} if clip == "none" else {"threshold": t([0.05, 0.5, float("inf")][i])},
            quant=dict.fromkeys(plan.layers, {"bits": t([2.0, 5.0, 8.0][i]), "percentile": t(99.0)}),
            distill={}
            if distill == "none"
            else {"weight": t([0.0, 0.4, 1.0][i]), "temperature": t([1.0, 2.0, 5.0][i])},
            optim={
                "lr": t([0.1, 0.05, 0.2][i]),
                "momentum": t([0.9, 0.5, 0.0][i]),
                "weight_decay": t([0.0, 1e-3, 1e-2][i]),
                "step": t(1.0),
            },
        )
        buffers = {k: b.clone() for k, b in module.named_buffers()}
        made.append((State(flat, buffers, {"momentum": torch.zeros_like(flat)}, masks, ranges, {}), hparams))
    return made


def run(
    plan: Plan, state: State, hparams: Hparams, of: slice | int = slice(None), steps: int = 4
) -> tuple[State, dict]:
    """``of``: all lanes, or the batches of one of them."""
    generator = torch.Generator().manual_seed(1)
    metrics: dict = {}
    for _ in range(steps):
        x = torch.rand(LANES, 8, 1, 6, 6, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 5, (LANES, 8), generator=generator)
        teacher = torch.randn(LANES, 8, 5, generator=generator, dtype=torch.float64)
        state, metrics = step(plan, state, (x[of], labels[of], {"logits": teacher[of]}), hparams)
    return state, metrics


def side_by_side(module: nn.Module, plan: Plan, each: list[tuple[State, Hparams]], form: str) -> tuple:
    forward = {"stacked": stacked(module, LANES), "mapped": mapped(module)}[form]
    assert forward is not None
    return replace(plan, forward=forward, lift=torch.vmap), stack([s for s, _ in each]), stack([h for _, h in each])


@pytest.mark.parametrize("form", ["stacked", "mapped"])
@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize(
    ("network", "clip", "distill"),
    [
        *(("conv", clip, distill) for clip in ("none", "norm", "value") for distill in ("none", "logits")),
        ("mlp", "norm", "logits"),
        ("residual", "value", "logits"),
    ],
)
def test_a_lane_equals_the_student_alone(network, clip, distill, quantize, form):
    module, plan = plan_of(network, clip, distill, quantize)
    each = students(module, plan, clip, distill)
    together, metrics = run(*side_by_side(module, plan, each, form))
    for i, (state, hparams) in enumerate(each):
        alone, own = run(plan, state, hparams, i)
        torch.testing.assert_close(together.params[i], alone.params, rtol=1e-12, atol=1e-12)
        for name, b in alone.buffers.items():
            torch.testing.assert_close(together.buffers[name][i], b, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(metrics["loss"][i], own["loss"], rtol=1e-12, atol=1e-12)
        assert bool(metrics["clipped"][i]) == bool(own["clipped"])


@pytest.mark.parametrize("form", ["stacked", "mapped"])
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_a_nan_lane_leaves_its_neighbors_bit_equal(network, form):
    module, plan = plan_of(network, "norm", "logits", True)
    each = students(module, plan, "norm", "logits")
    clean, _ = run(*side_by_side(module, plan, each, form))
    each[1][0].params[-1] = float("nan")
    after, metrics = run(*side_by_side(module, plan, each, form))
    assert torch.isnan(metrics["loss"][1])
    assert torch.equal(after.params[[0, 2]], clean.params[[0, 2]])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_form_without_overhead_computes_the_module(network, training):
    module, _ = plan_of(network, "none", "none", False)
    lean = stacked(module)
    assert lean is not None
    params, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    ranges = {p: (t(0.01), t(30.0), t(255.0)) for points in points_of(module).values() for p in points}
    x = torch.randn(8, 1, 6, 6, dtype=torch.float64)
    for rounded in ({}, ranges):
        wanted, after = plain(module)(params, buffers, rounded, x, training)
        got, own = lean(params, buffers, rounded, x, training)
        torch.testing.assert_close(got["logits"], wanted["logits"], rtol=1e-12, atol=1e-12)
        for name in after:
            torch.testing.assert_close(own[name], after[name], rtol=1e-12, atol=1e-12)


class Branching(nn.Sequential):
    """Decides by its data: no graph can be read from it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.mean() > -1e9 else x


class Scaled(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


@pytest.mark.parametrize("kind", [Branching, Scaled])
def test_an_unknown_network_is_left_to_its_own_forward(kind):
    module = kind(nn.Flatten(), nn.Linear(36, 5))
    assert stacked(module, 2) is None
    x = torch.rand(4, 1, 6, 6)
    got, _ = single(module)(dict(module.named_parameters()), {}, {}, x, True)
    assert torch.equal(got["logits"], module(x))


def test_a_step_leaves_its_inputs_as_they_were():
    module, plan = plan_of("conv", "norm", "logits", False)
    state, hparams = students(module, plan, "norm", "logits")[0]
    before = stack([state])
    run(plan, state, hparams, 0, steps=1)
    after = lane(before, 0)
    assert torch.equal(after.params, state.params)
    assert all(torch.equal(b, after.buffers[name]) for name, b in state.buffers.items())


def test_threads_may_read_graphs_at_once():
    """torch.fx replaces ``nn.Module.__call__`` while it traces: one thread's trace broke the other's
    (Optuna's ``n_jobs`` runs trials in threads)."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(lambda _: stacked(NETWORKS["residual"]()) is not None, range(60)))
    finally:
        sys.setswitchinterval(before)


NARROW = """
import torch
from torch import nn
from torch.nn import functional as F
from harness.train.forward import single

torch.manual_seed(0)
for channels in (1, 3, 5, 8):
    narrow = nn.Conv2d(channels, 12, 1, stride=2)
    net = nn.Sequential(nn.Conv2d(1, channels, 3), narrow, nn.Flatten(), nn.Linear(108, 4))
    forward = single(net)
    params = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    x = torch.randn(64, 1, 8, 8)
    for _ in range(100):
        logits = forward(params, {}, {}, x, True)[0]["logits"]
        found = torch.autograd.grad(logits.square().mean(), list(params.values()))
    wanted = torch.autograd.grad(net(x).square().mean(), list(net.parameters()))
    torch.testing.assert_close(logits, net(x), rtol=1e-4, atol=1e-5)
    for got, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
"""


def test_a_narrow_strided_kernel_of_one_pixel_leaves_the_process_alive():
    """On a processor with AVX2 and not AVX512 oneDNN corrupts the heap there: the process was killed."""
    ran = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
