"""Optimizers and schedules as pure functions: ``(params, grads, state, **settings) -> (params, state)``.

Every step equals that of ``torch.optim`` (tested). They are functions of dicts of tensors, so that one implementation
serves one student and several stacked students.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def init(optimizer: str, params: Tensors) -> dict[str, Tensors]:
    """Zero moments: one per parameter for ``sgd``, two for ``adamw``."""
    names = {"sgd": ("momentum",), "adamw": ("first", "second")}[optimizer]
    return {name: {k: torch.zeros_like(v) for k, v in params.items()} for name in names}


def sgd(
    params: Tensors,
    grads: Tensors,
    state: dict[str, Tensors],
    *,
    step: Tensor,
    lr: Tensor,
    momentum: Tensor,
    weight_decay: Tensor,
) -> tuple[Tensors, dict[str, Tensors]]:
    """v = momentum * v + g + weight_decay * p;  p -= lr * v  (``torch.optim.SGD``, dampening 0)."""
    velocity = {k: momentum * state["momentum"][k] + grads[k] + weight_decay * p for k, p in params.items()}
    return {k: p - lr * velocity[k] for k, p in params.items()}, {"momentum": velocity}


def adamw(
    params: Tensors,
    grads: Tensors,
    state: dict[str, Tensors],
    *,
    step: Tensor,
    lr: Tensor,
    momentum: Tensor,
    weight_decay: Tensor,
) -> tuple[Tensors, dict[str, Tensors]]:
    """AdamW (``torch.optim.AdamW``); ``step`` counts from 1.

    beta1 is ``momentum``, beta2 is 0.999, epsilon is 1e-8.
    Source: Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2.
    """
    first = {k: momentum * state["first"][k] + (1 - momentum) * g for k, g in grads.items()}
    second = {k: 0.999 * state["second"][k] + 0.001 * g.square() for k, g in grads.items()}
    correct1, correct2 = 1 - momentum**step, torch.sqrt(1 - 0.999**step)
    new = {
        k: p * (1 - lr * weight_decay) - lr * (first[k] / correct1) / (second[k].sqrt() / correct2 + 1e-8)
        for k, p in params.items()
    }
    return new, {"first": first, "second": second}


OPTIMIZERS = {"sgd": sgd, "adamw": adamw}


def learning_rate_factor(schedule: str, progress: float) -> float:
    """Factor on the learning rate at ``progress`` in [0, 1): 1, or half a cosine from 1 to 0."""
    return 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * progress))
