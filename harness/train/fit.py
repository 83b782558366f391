"""The training loop: phases from the recipe's schedule, epochs of :func:`harness.train.step.step`.

At the start of every epoch the schedule may remove channels (physically: the rest runs on the
small network), grow the weight masks, switch the weight quantiser on, and, in the last third,
freeze the activation ranges, so that the network learns with the rounding that its file has.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from harness.errors import TrialError
from harness.recipe import Recipe, Selected
from harness.techniques import CLIPS, DISTILLS, PRUNERS, QUANTISERS, optim, quantize
from harness.train.points import Ranges, observed_ranges, weighted_layers
from harness.train.shrink import shrink
from harness.train.step import Hparams, Plan, State, Tensors, effective_weights, step

FREEZE_AT = 2 / 3  # share of the epochs after which activation ranges are frozen
CALIBRATION = 512  # training samples that set the activation ranges


@dataclass(frozen=True)
class Examples:
    """The training part on the device: x (N, ...) normalised float32, y (N,) int64, the teacher's
    logits (N, C) or None."""

    x: Tensor
    y: Tensor
    teacher: Tensor | None = None


@dataclass(frozen=True)
class Quantised:
    """The integers that the file stores, and the scales that give them meaning.

    integers     layer path -> int8 array of the weight's shape, |q| <= 2**(bits-1) - 1
    scales       layer path -> float32 (C_out,): weight = integers * scales, before BatchNorm folding
    bits         layer path -> 2..8
    activations  quantisation point -> (scale, zero point of an unsigned byte)
    """

    integers: dict[str, np.ndarray]
    scales: dict[str, np.ndarray]
    bits: dict[str, int]
    activations: dict[str, tuple[float, int]]


@dataclass(frozen=True)
class Trained:
    """A finished student: physically small, float32, on the CPU; its weights are the masked and
    rounded ones, so that the module computes what the file will."""

    module: nn.Module
    quantised: Quantised | None
    sparse: bool
    history: list[dict[str, float]]
    diagnostics: dict[str, Any]


@dataclass(frozen=True)
class _Run:
    recipe: Recipe
    examples: Examples
    plan: Plan
    state: State
    hparams: Hparams
    removed: bool = False
    kept: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.examples.x.device


def fit(recipe: Recipe, module: nn.Module, examples: Examples) -> Trained:
    """Train ``module`` (on the examples' device) by the recipe.

    Raises:
        TrialError: the loss left the finite numbers (with epoch and step).
    """
    module.train()
    run = _begin(recipe, module, examples)
    order = torch.Generator().manual_seed(recipe.seed)
    history: list[dict[str, float]] = []
    for epoch in range(recipe.train.epochs):
        run = _enter(run, epoch / recipe.train.epochs)
        run, row = _epoch(run, epoch, order)
        history.append(row)
    return _finish(_enter(run, 1.0), history)


def _scalars(selected: Selected, device: torch.device) -> Tensors:
    return {k: torch.tensor(float(v), device=device) for k, v in selected.options.items()}


def _begin(recipe: Recipe, module: nn.Module, examples: Examples) -> _Run:
    device = examples.x.device
    plan = Plan(
        module=module,
        layers=tuple(weighted_layers(module)),
        clip=CLIPS[recipe.clip.name].load(),
        distill=DISTILLS[recipe.distill.name].load(),
        optimize=optim.OPTIMIZERS[recipe.train.optimizer],
    )
    params = {k: p.detach().clone() for k, p in module.named_parameters()}
    buffers = {k: b.detach().clone() for k, b in module.named_buffers()}
    state = State(params, buffers, optim.init(recipe.train.optimizer, params), {}, {})
    hparams = Hparams(
        progress=torch.zeros((), device=device),
        clip=_scalars(recipe.clip, device),
        quant=_scalars(recipe.quant, device),
        distill=_scalars(recipe.distill, device),
        optim={
            k: torch.tensor(float(getattr(recipe.train, k)), device=device) for k in ("lr", "momentum", "weight_decay")
        },
    )
    return _Run(recipe, examples, plan, state, hparams)


def _enter(run: _Run, progress: float) -> _Run:
    """Apply what the schedule asks for at ``progress`` (1.0 after the last epoch)."""
    recipe = run.recipe
    at = torch.tensor(progress, device=run.device)
    run = replace(run, hparams=replace(run.hparams, progress=at))
    if recipe.prune.name == "channel":
        run = _remove_channels(run, progress)
    elif recipe.prune.name != "none":
        run = _mask_weights(run)
    bits, start = recipe.quant.options["bits"], recipe.quant.options["start"]
    if bits < 32 and progress >= start:
        run = replace(run, plan=replace(run.plan, quantise=QUANTISERS[recipe.quant.name].load()))
        if not run.state.ranges and progress >= max(start, FREEZE_AT):
            run = replace(run, state=replace(run.state, ranges=_calibrate(run)))
    return run


def _remove_channels(run: _Run, progress: float) -> _Run:
    options = run.recipe.prune.options
    if run.removed or options["ratio"] == 0 or progress < options["at"]:
        return run
    choose = PRUNERS["channel"].load()
    given = _scalars(run.recipe.prune, torch.device("cpu"))
    full = _materialise(run.plan.module, {**run.state.params, **run.state.buffers})
    small, slices, kept = shrink(
        full,
        tuple(run.examples.x.shape[1:]),
        lambda scores: choose(scores, torch.tensor(progress), **given).nonzero().flatten(),
    )
    small.to(run.device).train()

    def cut(tensors: Tensors) -> Tensors:
        return {k: v.flatten()[slices[k].flatten().to(v.device)].reshape(slices[k].shape) for k, v in tensors.items()}

    state = replace(
        run.state,
        params=cut(run.state.params),
        buffers=cut(run.state.buffers),
        moments={k: cut(m) for k, m in run.state.moments.items()},
    )
    return replace(run, plan=replace(run.plan, module=small), state=state, removed=True, kept=kept)


def _mask_weights(run: _Run) -> _Run:
    choose = PRUNERS[run.recipe.prune.name].load()
    given = _scalars(run.recipe.prune, run.device)
    if run.recipe.prune.options["ratio"] == 0:
        return run
    masks = {}
    for layer in run.plan.layers:
        values = run.state.params[f"{layer}.weight"]
        before = run.state.masks.get(layer)
        values = values if before is None else values * before
        masks[layer] = choose(values, run.hparams.progress, **given).to(values.dtype)
    return replace(run, state=replace(run.state, masks=masks))


def _materialise(module: nn.Module, tensors: Tensors) -> nn.Module:
    """Load ``tensors`` into ``module`` and return it on the CPU."""
    module.load_state_dict(tensors)
    return module.cpu()


def _used(run: _Run) -> Tensors:
    return effective_weights(run.plan, run.state.params, run.state.masks, run.hparams.progress, run.hparams.quant)


@torch.no_grad()
def _calibrate(run: _Run) -> Ranges:
    """Activation ranges of the first training samples, with the weights as they are rounded now."""
    ranges: Ranges = {}
    run.plan.module.eval()
    with observed_ranges(run.plan.module, ranges):
        functional_call(run.plan.module, (_used(run), run.state.buffers), (run.examples.x[:CALIBRATION],))
    run.plan.module.train()
    return ranges


def _epoch(run: _Run, epoch: int, order: torch.Generator) -> tuple[_Run, dict[str, float]]:
    train, examples = run.recipe.train, run.examples
    n, size = len(examples.y), min(train.batch_size, len(examples.y))
    shuffled = torch.randperm(n, generator=order).to(run.device)
    steps = n // size  # the last, smaller batch is left out: every step has one shape
    rows: list[Tensors] = []
    for i in range(steps):
        index = shuffled[i * size : (i + 1) * size]
        teacher = None if examples.teacher is None else examples.teacher[index]
        factor = optim.learning_rate_factor(train.schedule, (epoch + i / steps) / train.epochs)
        rate = {"lr": run.hparams.optim["lr"] * factor, "step": torch.tensor(epoch * steps + i + 1.0)}
        hparams = replace(run.hparams, optim={**run.hparams.optim, **rate})
        state, metrics = step(run.plan, run.state, (examples.x[index], examples.y[index], teacher), hparams)
        run = replace(run, state=state)
        rows.append(metrics)
    return run, _summary(epoch, rows, run)


def _summary(epoch: int, rows: list[Tensors], run: _Run) -> dict[str, float]:
    loss, norm, clipped = (torch.stack([r[k] for r in rows]).float().cpu() for k in ("loss", "norm", "clipped"))
    bad = (~torch.isfinite(loss)).nonzero().flatten()
    if len(bad):
        raise TrialError(
            f"nonfinite: the loss was {loss[bad[0]].item()} in epoch {epoch + 1}, step {bad[0].item() + 1} "
            f"of {len(rows)}. Lower train.lr or clip the gradients."
        )
    masks = run.state.masks.values()
    total = sum(m.numel() for m in masks)
    return {
        "epoch": epoch + 1,
        "loss": loss.mean().item(),
        "gradient_norm": norm.median().item(),
        "clipped_share": clipped.mean().item(),
        "sparsity": 1 - sum(m.sum().item() for m in masks) / total if total else 0.0,
        "parameters": float(sum(p.numel() for p in run.state.params.values())),
        "weights_rounded": float(run.plan.quantise is not None),
        "activations_rounded": float(bool(run.state.ranges)),
    }


@torch.no_grad()
def _finish(run: _Run, history: list[dict[str, float]]) -> Trained:
    quantised = _integers(run) if run.state.ranges else None
    module = _materialise(run.plan.module, {**_used(run), **run.state.buffers})
    diagnostics = {
        "clipped_share": float(np.mean([row["clipped_share"] for row in history])),
        "gradient_norm": float(np.median([row["gradient_norm"] for row in history])),
        "channels_kept": {k: list(v) for k, v in run.kept.items()},
        "sparsity": 1 - float(np.mean([m.mean().item() for m in run.state.masks.values()])) if run.state.masks else 0.0,
    }
    return Trained(module.eval(), quantised, bool(run.state.masks), history, diagnostics)


def _integers(run: _Run) -> Quantised:
    bits = int(run.recipe.quant.options["bits"])  # pyright: ignore[reportArgumentType]
    integers, scales = {}, {}
    for layer in run.plan.layers:
        weight = run.state.params[f"{layer}.weight"]
        weight = weight * run.state.masks[layer] if run.state.masks else weight
        q, scale = quantize.integers(weight, run.hparams.quant["bits"])
        integers[layer] = q.to(torch.int8).cpu().numpy()
        scales[layer] = scale.flatten().float().cpu().numpy()
    activations = {point: (scale.item(), int(zero.item())) for point, (scale, zero) in run.state.ranges.items()}
    return Quantised(integers, scales, dict.fromkeys(run.plan.layers, bits), activations)
