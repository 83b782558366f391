"""Optimizers and schedules as pure functions: ``(params, gradient, state, **settings) -> (params, state)``.

Every step equals that of ``torch.optim`` (tested). ``params``, ``gradient`` and every tensor of ``state`` have one
shape; a student has all its parameters in one flat vector (P,). ``torch.vmap`` maps a step over stacked students.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def init(optimizer: str, params: Tensor) -> Tensors:
    """Zero moments by name: one for ``sgd``, two for ``adamw``."""
    names = {"sgd": ("momentum",), "adamw": ("first", "second")}[optimizer]
    return {name: torch.zeros_like(params) for name in names}


def sgd(
    params: Tensor,
    gradient: Tensor,
    state: Tensors,
    *,
    step: Tensor,
    lr: Tensor,
    momentum: Tensor,
    weight_decay: Tensor,
) -> tuple[Tensor, Tensors]:
    """v = momentum * v + g + weight_decay * p;  p -= lr * v  (``torch.optim.SGD``, dampening 0)."""
    velocity = momentum * state["momentum"] + gradient + weight_decay * params
    return params - lr * velocity, {"momentum": velocity}


def adamw(
    params: Tensor,
    gradient: Tensor,
    state: Tensors,
    *,
    step: Tensor,
    lr: Tensor,
    momentum: Tensor,
    weight_decay: Tensor,
) -> tuple[Tensor, Tensors]:
    """Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2; beta1 is ``momentum``, beta2
    0.999, epsilon 1e-8. ``step`` counts from 1."""
    first = momentum * state["first"] + (1 - momentum) * gradient
    second = 0.999 * state["second"] + 0.001 * gradient.square()
    correct1, correct2 = 1 - momentum**step, torch.sqrt(1 - 0.999**step)
    moved = lr * (first / correct1) / (second.sqrt() / correct2 + 1e-8)
    return params * (1 - lr * weight_decay) - moved, {"first": first, "second": second}


OPTIMIZERS = {"sgd": sgd, "adamw": adamw}


def learning_rate_factor(schedule: str, progress: float) -> float:
    """Factor on the learning rate at ``progress`` in [0, 1): 1, or half a cosine from 1 to 0."""
    return 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * progress))
