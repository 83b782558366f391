"""Gradient clipping: bound one step's gradient before the optimiser sees it.

g          gradients, a dict of tensors of any shape; ||g|| is the norm over all of them together
threshold  0-d tensor > 0; ``inf`` means off (the gradients are returned unchanged in value)

Every method returns the gradients and a 0-d bool: did this step get clipped? Its mean over the
steps is the record's share of clipped steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

Gradients = dict[str, Tensor]


def global_norm(grads: Gradients) -> Tensor:
    """Euclidean norm over all tensors together, 0-d."""
    return torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt()


def none(grads: Gradients) -> tuple[Gradients, Tensor]:
    """No clipping."""
    first = next(iter(grads.values()))
    return grads, torch.zeros((), dtype=torch.bool, device=first.device)


def norm(grads: Gradients, *, threshold: Tensor) -> tuple[Gradients, Tensor]:
    """Scale the whole gradient so that its norm is at most ``threshold``.

        g' = g * min(1, threshold / ||g||)

    Bound: ||g'|| <= threshold (up to rounding); the direction is kept.
    Source: Pascanu, Mikolov, Bengio 2013 (arXiv:1211.5063), section 3.2, algorithm 1.
    Differs from ``torch.nn.utils.clip_grad_norm_``, which adds 1e-6 to the norm and so ends just
    below the threshold.
    """
    total = global_norm(grads)
    scale = torch.clamp(threshold / total, max=1.0)
    return {name: g * scale for name, g in grads.items()}, total > threshold


def value(grads: Gradients, *, threshold: Tensor) -> tuple[Gradients, Tensor]:
    """Clamp every element to [-threshold, threshold].

        g'_i = min(max(g_i, -threshold), threshold)

    Bound: max|g'| <= threshold; the direction may change.
    Source: Mikolov 2012 (PhD thesis, Brno), section 3.2.2; ``torch.nn.utils.clip_grad_value_``.
    """
    clipped = {name: torch.minimum(torch.maximum(g, -threshold), threshold) for name, g in grads.items()}
    peak = torch.stack([g.abs().max() for g in grads.values()]).max()
    return clipped, peak > threshold
