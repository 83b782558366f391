"""The training loop: schedule changes between epochs, epochs of :func:`harness.train.step.step`, and the finished
student with the integers for its file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.errors import TrialError
from harness.models.seeding import seeded
from harness.recipe import Recipe
from harness.techniques import optimizers
from harness.train import lanes
from harness.train.forward import Tensors
from harness.train.lanes import Examples
from harness.train.pruning import materialize
from harness.train.quantization_points import left_alone
from harness.train.rounding import Quantized, integers, used_weights
from harness.train.schedule import begin, enter
from harness.train.step import LEARNED, State
from harness.train.student import Run


@dataclass(frozen=True)
class Trained:
    """A finished student, on the CPU.

    module       float32, without the removed channels; weights are masked and rounded, so it computes the same as
                 the file
    quantized    the integers of the file; None if activations are not quantized
    sparse       whether weights were masked
    history      one row per epoch
    diagnostics  among others ``pruned``, the share of the layers' weights that pruning holds at zero, and
                 ``sparsity``, the share that is zero in the file because it was pruned or rounded to zero
    """

    module: nn.Module
    quantized: Quantized | None
    sparse: bool
    history: list[dict[str, float]]
    diagnostics: dict[str, Any]


def fit(
    recipe: Recipe, module: nn.Module, examples: Examples, on_epoch: Callable[[int], None] = lambda epoch: None
) -> Trained:
    """Train ``module`` (on the examples' device) according to the recipe.

    Args:
        on_epoch: called after each epoch with its number, from 1.
    Raises:
        TrialError: the loss became non-finite; names epoch and step.
    """
    run = begin(recipe, module, examples)
    for epoch in range(1, recipe.train.epochs + 1):
        [advanced] = advance([run], epoch)
        if isinstance(advanced, TrialError):
            raise advanced
        run = advanced
        on_epoch(epoch)
    return finish(run)


def advance(runs: Sequence[Run], until: int) -> list[Run | TrialError]:
    """Train up to epoch ``until``. Students of equal structure train side by side.

    Args:
        runs: all at the same epoch, on the same examples.
    Returns:
        The runs in the same order; an error in place of a student whose loss became non-finite.
    """
    results: dict[int, Run | TrialError] = dict(enumerate(runs))
    while True:
        live = {i: r for i, r in results.items() if isinstance(r, Run) and r.epoch < min(until, r.recipe.train.epochs)}
        if not live:
            return list(results.values())
        entered = {i: _entered(r, r.epoch / r.recipe.train.epochs) for i, r in live.items()}
        for group in _groups(entered):
            results.update(zip(group, _epoch([entered[i] for i in group]), strict=True))


def _groups(runs: dict[int, Run]) -> list[list[int]]:
    """Group the runs that can train the next epoch side by side."""
    groups: dict[Any, list[int]] = {}
    for i, run in runs.items():
        train = run.recipe.train
        schedule = (train.epochs, train.batch_size, train.schedule)
        cached = tuple((name, id(t)) for name, t in run.examples.teacher.items())
        key = (lanes.structure(run.plan, run.state), schedule, cached)
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _epoch(runs: list[Run]) -> list[Run | TrialError]:
    """Train students of equal structure for one epoch."""
    train, examples, epoch = runs[0].recipe.train, runs[0].examples, runs[0].epoch
    n, size = len(examples.y), min(train.batch_size, len(examples.y))
    steps = n // size  # drop the last, smaller batch: all steps have the same shapes
    order = torch.stack([torch.randperm(n, generator=r.order) for r in runs])
    batches = order[:, : steps * size].reshape(len(runs), steps, size).to(runs[0].device)
    factors = [
        optimizers.learning_rate_factor(train.schedule, (epoch + i / steps) / train.epochs) for i in range(steps)
    ]
    students = [lanes.Student(r.module, r.plan, r.state, r.hparams, r.recipe.seed) for r in runs]
    trained = lanes.train(students, examples, batches, factors, epoch * steps)
    return [_after(r, state, metrics) for r, (state, metrics) in zip(runs, trained, strict=True)]


def _after(run: Run, state: State, metrics: Tensors) -> Run | TrialError:
    """The run with its new state and one more row of history; an error if the loss became non-finite."""
    loss, norm, clipped = (metrics[k].float().cpu() for k in ("loss", "norm", "clipped"))
    bad = (~torch.isfinite(loss)).nonzero().flatten()
    if len(bad):
        return TrialError(
            f"nonfinite: the loss was {loss[bad[0]].item()} in epoch {run.epoch + 1}, step {bad[0].item() + 1} "
            f"of {len(loss)}. Lower train.lr or clip the gradients."
        )
    masks = state.masks.values()
    total = sum(m.numel() for m in masks)
    row = {
        "epoch": run.epoch + 1,
        "loss": loss.mean().item(),
        "gradient_norm": norm.median().item(),
        "clipped_share": clipped.mean().item(),
        "pruned": 1 - sum(m.sum().item() for m in masks) / total if total else 0.0,
        "parameters": float(sum(prod(s) for n, s in run.plan.layout.shapes.items() if not n.startswith(LEARNED))),
        "weights_rounded": float(run.plan.quantize is not None),
        "activations_rounded": float(bool(state.ranges)),
    }
    return replace(run, state=state, epoch=run.epoch + 1, history=(*run.history, row))


def finish(run: Run) -> Trained:
    """The finished student, after the schedule's changes at the end of training."""
    return _trained(_entered(run, 1.0))


def _entered(run: Run, progress: float) -> Run:
    """The run after the schedule's changes at ``progress``. Random numbers in them follow from the student's seed."""
    with seeded(run.recipe.seed, run.epoch):
        return enter(run, progress)


@torch.no_grad()
def _trained(run: Run) -> Trained:
    quantized = integers(run) if run.state.ranges else None
    module = materialize(run.module, {**used_weights(run), **run.state.buffers})
    weights = [module.get_parameter(f"{layer}.weight") for layer in run.plan.layers]
    total, history = max(sum(w.numel() for w in weights), 1), list(run.history)
    diagnostics = {
        "clipped_share": float(np.mean([row["clipped_share"] for row in history])) if history else 0.0,
        "gradient_norm": float(np.median([row["gradient_norm"] for row in history])) if history else 0.0,
        "left_alone": left_alone(module),
        "channels_kept": {k: list(v) for k, v in run.kept.items()},
        "pruned": sum(int((m == 0).sum()) for m in run.state.masks.values()) / total,
        "sparsity": sum(int((w == 0).sum()) for w in weights) / total,
    }
    return Trained(module.eval(), quantized, bool(run.state.masks), history, diagnostics)
