"""Pruning: methods that choose which weights or channels stay, scores that rank them, and sparsity penalties.

Every method is ``(values, progress, total, **params) -> mask``, a bool tensor of the values' shape, True
where kept. ``progress`` is the share of the epochs done, 0-d in [0, 1]; ``total`` (0-d) is the number of values
before the first removal. Masks are chosen by rank (stable sort), not by a threshold, so the number kept is exact
even with equal scores.
"""

from __future__ import annotations

import torch
from torch import Tensor


def keep_largest(scores: Tensor, count: Tensor) -> Tensor:
    """Mask of the ``count`` (0-d) largest scores, any shape; ties go to the lower index."""
    order = torch.argsort(scores.flatten(), descending=True, stable=True)
    rank = torch.argsort(order, stable=True)
    return (rank < count).reshape(scores.shape)


def ramp(progress: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """0 before ``start``, 1 from ``end`` on, and 1 - (1 - u)**3 between them, where u rises linearly from 0 to 1.

    Source: Zhu and Gupta 2017 (arXiv:1710.01878), equation 1 (initial sparsity 0). If ``end`` is not above
    ``start``, the value jumps to 1 at ``start`` (one shot).
    """
    u = torch.clamp((progress - start) / torch.clamp(end - start, min=1e-9), 0, 1)
    u = torch.where((progress >= start) & (progress >= end), torch.ones_like(u), u)
    return 1 - (1 - u) ** 3


def none(values: Tensor, progress: Tensor, total: Tensor) -> Tensor:
    """Keep everything."""
    return torch.ones_like(values, dtype=torch.bool)


def channel(
    scores: Tensor, progress: Tensor, total: Tensor, *, ratio: Tensor, at: Tensor, end: Tensor, round_to: Tensor
) -> Tensor:
    """Remove the channels (or neurons) of the lowest scores, at progress ``at``, or in steps until ``end``.

        kept = min(C, round_to * ceil(max(1, round((1 - s) * N)) / round_to)),  s = ratio * ramp(at, end)

    scores  (C,), of the remaining channels, by one of CHANNEL_SCORES;  N = ``total``
    ratio   in [0, 1), 0 is off
    The training loop physically removes the other channels, so the rest of the training runs on the smaller network.
    Source: Li, Kadav, Durdanovic, Samet, Graf 2017 (arXiv:1608.08710), section 3.1. ``round_to`` is an addition:
    runtimes process channels in blocks of 4 or 8.
    """
    return keep_largest(scores, _number_kept(scores, total, ratio * ramp(progress, at, end), round_to))


def rollback(scores: Tensor, progress: Tensor, total: Tensor, *, ratio: Tensor, round_to: Tensor) -> Tensor:
    """Remove channels as :func:`channel` does, or single weights, at the ratio that the training loop asks for.

    There is no schedule: the loop raises the ratio and undoes a removal that costs more accuracy than its tolerance
    (:mod:`harness.train.pruning`).

    scores  (C,) of the remaining channels, or (n,) of a layer's weights; weights already masked have the lowest scores
    Source: none exact. The nearest published method is NetAdapt (Yang et al. 2018, arXiv:1804.03230), algorithm 1.
    """
    return keep_largest(scores, _number_kept(scores, total, ratio, round_to))


def _number_kept(scores: Tensor, total: Tensor, ratio: Tensor, round_to: Tensor) -> Tensor:
    """The number of values kept; all of them while the ratio is 0."""
    here = scores.new_tensor(float(scores.shape[-1]))
    blocks = torch.ceil(torch.clamp(torch.round((1 - ratio) * total), min=1) / round_to) * round_to
    return torch.where(ratio > 0, torch.minimum(blocks, here), here)


def weight(values: Tensor, progress: Tensor, total: Tensor, *, ratio: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Remove single weights by magnitude; the share removed grows along a cubic schedule.

        s(p) = ratio * ramp(p, start, end)

    Removes round(s * n) of n weights: of a layer, or of all layers together if the scope is
    global. ratio in [0, 1), 0 is off. Masks are nested as s grows only while the kept weights stay
    the largest ones. A removed weight does not return by itself, since its value is held at 0.
    Source: Zhu and Gupta 2017 (arXiv:1710.01878), section 3.
    """
    removed = torch.round(ratio * ramp(progress, start, end) * values.numel())
    return keep_largest(values.abs(), values.numel() - removed)


def l1(weights: Tensor, gates: Tensor, scales: Tensor, generator: torch.Generator) -> Tensor:
    """Sum of |w| over a channel's filters (Li et al. 2017, arXiv:1608.08710, section 3.1)."""
    return weights.abs().sum(1)


def l2(weights: Tensor, gates: Tensor, scales: Tensor, generator: torch.Generator) -> Tensor:
    """Euclidean norm of a channel's filters (He et al. 2018, arXiv:1808.06866, section 3.2)."""
    return weights.square().sum(1).sqrt()


def bn_scale(weights: Tensor, gates: Tensor, scales: Tensor, generator: torch.Generator) -> Tensor:
    """Mean of |gamma| over the batch norms of a channel (Liu et al. 2017, arXiv:1708.06519, section 3).

    The paper has one batch norm per channel. A channel of a residual stream has several; a sum instead of the mean
    would rank it high only because of their number.
    The paper ranks the channels of all layers together, after training with a penalty on the scales:
    ``scope: global``, ``regularize: l1``, ``on: scales``. The default ``scope: layer`` differs from the
    paper: every layer loses the same share, and size and latency are known before training.
    """
    return scales.abs().mean(1)


def taylor(weights: Tensor, gates: Tensor, scales: Tensor, generator: torch.Generator) -> Tensor:
    """Mean over mini-batches of (dL/dz)**2, where z = 1 is a gate that multiplies the channel.

    To first order, (dL/dz)**2 is the squared change of a mini-batch's loss when the channel is removed.

        dL/dz = sum of w * dL/dw over the channel's own parameters: filters, biases, gamma and beta

    In front of a batch norm the filters' part is 0 (up to epsilon), because the norm cancels their scale. The gate is
    then placed after the norm: gamma * dL/dgamma + beta * dL/dbeta. Each mini-batch is squared before averaging,
    because at a minimum the mean of dL/dz is 0 for every channel.
    Source: Molchanov, Mallya, Tyree, Frosio, Kautz 2019 (arXiv:1906.10771), section 3.1, equations 8 and 9.
    """
    return gates.square().mean(1)


def random(weights: Tensor, gates: Tensor, scales: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform random scores: the baseline for the other scores."""
    return torch.rand(weights.shape[0], generator=generator, dtype=weights.dtype)


# Arguments: weights (C, n) of the filters that produce each channel; gates (C, b), the loss's derivative to each
# channel's gate on b mini-batches; scales (C, k), batch norm gammas, k = 0 without batch norm; a seeded generator.
# Result: scores (C,), larger is more important.
CHANNEL_SCORES = {"l1": l1, "l2": l2, "bn_scale": bn_scale, "taylor": taylor, "random": random}


def magnitude(weights: Tensor, generator: torch.Generator) -> Tensor:
    """|w| (Han, Pool, Tran, Dally 2015, arXiv:1506.02626, section 3)."""
    return weights.abs()


def at_random(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform random scores."""
    return torch.rand(weights.shape, generator=generator, dtype=weights.dtype).to(weights.device)


# weights (n,), a seeded generator -> scores (n,) >= 0. The L1 and L2 norm of a single weight are both |w|.
WEIGHT_SCORES = {"l1": magnitude, "l2": magnitude, "random": at_random}


def together(scores: list[Tensor], count: Tensor, round_to: int) -> list[Tensor]:
    """For each group of scores (C_i,) a mask of the channels among the ``count`` largest of all groups together.

    At least one channel of a group stays, and the number that stay is rounded up to a multiple of ``round_to``.
    """
    masks = keep_largest(torch.cat(scores), count).split([len(s) for s in scores])
    blocks = [torch.ceil(torch.clamp(mask.sum(), min=1) / round_to) * round_to for mask in masks]
    return [keep_largest(s, n) for s, n in zip(scores, blocks, strict=True)]


def l1_penalty(tensors: list[Tensor], strength: Tensor) -> Tensor:
    """strength * sum|w|, 0-d: the same pull to zero on every value (Liu et al. 2017, equation 1)."""
    return strength * torch.stack([t.abs().sum() for t in tensors]).sum()


def l2_penalty(tensors: list[Tensor], strength: Tensor) -> Tensor:
    """strength * sum w**2, 0-d: the pull to zero is proportional to the value."""
    return strength * torch.stack([t.square().sum() for t in tensors]).sum()


PENALTIES = {"l1": l1_penalty, "l2": l2_penalty}
