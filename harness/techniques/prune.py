"""Pruning: which weights or channels stay.

Every method is ``(values, progress, **params) -> mask``, a bool tensor of the values' shape,
True where kept. ``progress`` is the share of the epochs done, 0-d in [0, 1]. Masks go by rank
(stable sort), so the number kept is exact and equal scores cannot all fall on one side.
"""

from __future__ import annotations

import torch
from torch import Tensor


def keep_largest(scores: Tensor, count: Tensor) -> Tensor:
    """Mask of the ``count`` (0-d) largest scores, any shape; ties go to the lower index."""
    order = torch.argsort(scores.flatten(), descending=True, stable=True)
    rank = torch.argsort(order, stable=True)
    return (rank < count).reshape(scores.shape)


def none(values: Tensor, progress: Tensor) -> Tensor:
    """Keep everything."""
    return torch.ones_like(values, dtype=torch.bool)


def channel(scores: Tensor, progress: Tensor, *, ratio: Tensor, at: Tensor, round_to: Tensor) -> Tensor:
    """Whole channels (or neurons) by magnitude, all at once at progress ``at``.

        kept = min(C, round_to * ceil(max(1, round((1 - ratio) * C)) / round_to))

    scores (C,): the Euclidean norm of each channel's filter, summed in squares over the layers
    that share the channel. The loop removes the others physically, so that the rest of the
    training runs on the small network. ratio in [0, 1), 0 is off.
    Source: Li, Kadav, Durdanovic, Samet, Graf 2017 (arXiv:1608.08710), section 3.1, with the L2
    norm instead of L1; ``round_to`` is ours, since runtimes block channels by 4 or 8.
    """
    total = scores.new_tensor(float(scores.shape[-1]))
    wanted = torch.clamp(torch.round((1 - ratio) * total), min=1)
    blocks = torch.ceil(wanted / round_to) * round_to
    count = torch.where((progress >= at) & (ratio > 0), torch.minimum(blocks, total), total)
    return keep_largest(scores, count)


def weight(values: Tensor, progress: Tensor, *, ratio: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Single weights by magnitude, the share removed growing along a cubic schedule.

        s(p) = ratio * (1 - (1 - u)**3),  u = clamp((p - start) / (end - start), 0, 1)

    Removes round(s * n) of n weights. ratio in [0, 1), 0 is off. Masks are nested as s grows only
    while the kept weights stay the largest ones: a removed weight does not come back by itself,
    since its value is held at 0.
    Source: Zhu and Gupta 2017 (arXiv:1710.01878), equation 1 (initial sparsity 0).
    """
    span = torch.clamp(end - start, min=1e-9)
    u = torch.clamp((progress - start) / span, 0, 1)
    removed = torch.round(ratio * (1 - (1 - u) ** 3) * values.numel())
    return keep_largest(values.abs(), values.numel() - removed)
