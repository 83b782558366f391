"""One training step, written for one student. Read this page first.

    step(plan, state, batch, hparams) -> (state, metrics)

``plan`` holds what must be equal for students that run together (the network's form, the methods,
what is switched on); ``state`` and ``hparams`` hold tensors. The parameters lie in one flat vector,
so that clipping and the optimiser are a few operators, however many layers there are. With K
students, every tensor has a leading K, ``plan.forward`` is one that computes K networks, and
``plan.lift`` (``torch.vmap``) maps the techniques, each written for one student, over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from harness.techniques import clip as clipping
from harness.train.forward import Forward, Tensors
from harness.train.points import Ranges


def alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """The lift of one student."""
    return function


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in the flat vector: names and shapes, in order."""

    shapes: dict[str, tuple[int, ...]]

    def split(self, flat: Tensor) -> Tensors:
        """Views of ``flat`` (P,) or (K, P) by name, of shape ``(*shape)`` or ``(K, *shape)``."""
        parts = flat.split([prod(s) for s in self.shapes.values()], dim=-1)
        return {
            name: part.reshape(*part.shape[:-1], *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    @staticmethod
    def of(params: Mapping[str, Tensor]) -> Layout:
        return Layout({name: tuple(p.shape) for name, p in params.items()})

    @staticmethod
    def join(params: Mapping[str, Tensor]) -> Tensor:
        """One student's parameters as a flat vector."""
        return torch.cat([p.detach().flatten() for p in params.values()])


@dataclass(frozen=True)
class Plan:
    """The static part of a step.

    layers     paths of the prunable, quantisable layers
    quantise   the weight quantiser, None while it is off
    clip, distill, optimize  the chosen methods
    lift       ``alone``, or ``torch.vmap`` for K students
    """

    forward: Forward
    layout: Layout
    layers: tuple[str, ...]
    clip: Callable[..., tuple[Tensors, Tensor]]
    distill: Callable[..., Tensor]
    optimize: Callable[..., tuple[Tensors, dict[str, Tensors]]]
    quantise: Callable[..., Tensor] | None = None
    lift: Callable[[Callable[..., Any]], Callable[..., Any]] = alone


@dataclass(frozen=True)
class State:
    """One student's tensors: flat parameters (P,), buffers, flat optimiser moments, masks (by layer;
    empty until weights are pruned), activation ranges (empty until they are frozen)."""

    params: Tensor
    buffers: Tensors
    moments: Tensors
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
    used, quantise = dict(params), plan.quantise
    for layer in plan.layers:
        name = f"{layer}.weight"
        if masks:
            used[name] = used[name] * masks[layer]
        if quantise is not None:
            used[name] = plan.lift(lambda w, p, given: quantise(w, p, **given))(used[name], progress, quant)
    return used


def update(
    plan: Plan, params: Tensor, gradient: Tensor, moments: Tensors, clip: Tensors, optim: Tensors
) -> tuple[Tensor, Tensors, Tensor, Tensor]:
    """Clip and step one student: new parameters, new moments, gradient norm before clipping,
    clipped or not."""
    norm = clipping.global_norm({"all": gradient})
    grads, clipped = plan.clip({"all": gradient}, **clip)
    before = {name: {"all": m} for name, m in moments.items()}
    after, moved = plan.optimize({"all": params}, grads, before, **optim)
    return after["all"], {name: m["all"] for name, m in moved.items()}, norm, clipped


def step(
    plan: Plan, state: State, batch: tuple[Tensor, Tensor, Tensor | None], hparams: Hparams
) -> tuple[State, Tensors]:
    """One optimiser step on ``(x, labels, teacher logits)``.

    Metrics: ``loss``, ``norm``, ``clipped``, each 0-d (or (K,))."""
    x, labels, teacher = batch
    flat = state.params.detach().requires_grad_()
    used = effective_weights(plan, plan.layout.split(flat), state.masks, hparams.progress, hparams.quant)
    logits, buffers = plan.forward(used, state.buffers, state.ranges, x, True)
    loss = _loss(plan, logits, labels, teacher, hparams.distill)
    (gradient,) = torch.autograd.grad(loss.sum(), flat)
    with torch.no_grad():
        params, moments, norm, clipped = plan.lift(lambda *given: update(plan, *given))(
            state.params, gradient, state.moments, hparams.clip, hparams.optim
        )
    new = State(params, buffers, moments, state.masks, state.ranges)
    return new, {"loss": loss.detach(), "norm": norm, "clipped": clipped}


def _loss(plan: Plan, logits: Tensor, labels: Tensor, teacher: Tensor | None, distill: Tensors) -> Tensor:
    if teacher is None:
        return plan.lift(lambda z, y, given: plan.distill(z, y, None, **given))(logits, labels, distill)
    return plan.lift(lambda z, y, t, given: plan.distill(z, y, t, **given))(logits, labels, teacher, distill)
