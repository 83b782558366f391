"""One training step, written for one student. Read this page first.

    step(plan, state, batch, hparams) -> (state, metrics)

``plan`` holds what must be equal for students that run together (the module, the methods, what
is switched on); ``state`` and ``hparams`` are dicts of tensors. ``objective`` and ``update`` are
pure functions of one student; with K students, everything in state and hparams has a leading K
and ``over=torch.vmap`` maps the same two functions, with one backward pass between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from harness.techniques import clip as clipping
from harness.train.points import Ranges, quantised_activations

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """The static part of a step.

    layers     paths of the prunable, quantisable layers
    quantise   the weight quantiser, None while it is off
    clip, distill, optimize  the chosen methods
    """

    module: nn.Module
    layers: tuple[str, ...]
    clip: Callable[..., tuple[Tensors, Tensor]]
    distill: Callable[..., Tensor]
    optimize: Callable[..., tuple[Tensors, dict[str, Tensors]]]
    quantise: Callable[..., Tensor] | None = None


@dataclass(frozen=True)
class State:
    """One student's tensors: parameters, buffers, optimiser moments, masks (by layer; empty until
    weights are pruned), activation ranges (empty until they are frozen)."""

    params: Tensors
    buffers: Tensors
    moments: dict[str, Tensors]
    masks: Tensors
    ranges: Ranges


@dataclass(frozen=True)
class Hparams:
    """The sampled numbers as 0-d tensors: the methods' keywords, and the share of epochs done."""

    progress: Tensor
    clip: Tensors
    quant: Tensors
    distill: Tensors
    optim: Tensors


def effective_weights(plan: Plan, params: Tensors, masks: Tensors, progress: Tensor, quant: Tensors) -> Tensors:
    """The weights that the network computes with: masked, then rounded."""
    used = dict(params)
    for layer in plan.layers:
        name = f"{layer}.weight"
        if masks:
            used[name] = used[name] * masks[layer]
        if plan.quantise is not None:
            used[name] = plan.quantise(used[name], progress, **quant)
    return used


def objective(
    plan: Plan,
    params: Tensors,
    buffers: Tensors,
    masks: Tensors,
    ranges: Ranges,
    progress: Tensor,
    quant: Tensors,
    distill: Tensors,
    batch: tuple[Tensor, Tensor, Tensor | None],
) -> tuple[Tensor, Tensors]:
    """Loss (0-d) of one student on ``(x, labels, teacher logits)`` and its new buffers."""
    x, labels, teacher = batch
    buffers = {name: b.clone() for name, b in buffers.items()}
    used = effective_weights(plan, params, masks, progress, quant)
    with quantised_activations(plan.module, ranges):
        logits = functional_call(plan.module, (used, buffers), (x,))
    return plan.distill(logits, labels, teacher, **distill), buffers


def update(
    plan: Plan, params: Tensors, grads: Tensors, moments: dict[str, Tensors], clip: Tensors, optim: Tensors
) -> tuple[Tensors, dict[str, Tensors], Tensor, Tensor]:
    """Clip and step: new parameters, new moments, gradient norm before clipping, clipped or not."""
    norm = clipping.global_norm(grads)
    grads, clipped = plan.clip(grads, **clip)
    params, moments = plan.optimize(params, grads, moments, **optim)
    return params, moments, norm, clipped


def step(
    plan: Plan,
    state: State,
    batch: tuple[Tensor, Tensor, Tensor | None],
    hparams: Hparams,
    over: Callable[..., Any] | None = None,
) -> tuple[State, Tensors]:
    """One optimiser step. Metrics: ``loss``, ``norm``, ``clipped``, each 0-d (or (K,))."""

    def one_loss(
        params: Tensors,
        buffers: Tensors,
        masks: Tensors,
        ranges: Ranges,
        progress: Tensor,
        quant: Tensors,
        distill: Tensors,
    ) -> tuple[Tensor, Tensors]:
        return objective(plan, params, buffers, masks, ranges, progress, quant, distill, batch)

    def one_update(
        params: Tensors, grads: Tensors, moments: dict[str, Tensors], clip: Tensors, optim: Tensors
    ) -> tuple[Tensors, dict[str, Tensors], Tensor, Tensor]:
        return update(plan, params, grads, moments, clip, optim)

    lift = over or (lambda function: function)
    leaves = {name: p.detach().requires_grad_() for name, p in state.params.items()}
    loss, buffers = lift(one_loss)(
        leaves, state.buffers, state.masks, state.ranges, hparams.progress, hparams.quant, hparams.distill
    )
    found = torch.autograd.grad(loss.sum(), list(leaves.values()))
    with torch.no_grad():
        params, moments, norm, clipped = lift(one_update)(
            state.params, dict(zip(leaves, found, strict=True)), state.moments, hparams.clip, hparams.optim
        )
    new = State(params, buffers, moments, state.masks, state.ranges)
    return new, {"loss": loss.detach(), "norm": norm, "clipped": clipped}
