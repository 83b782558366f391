"""Quantisation: weights as small integers, activations as unsigned bytes.

Weights, symmetric per output channel (dimension 0), with a straight-through gradient:

    q = clamp(round(w / s), -Q, Q),   w' = q * s,   s = max|w| / Q,   Q = 2**(bits-1) - 1

w     weight of one layer, (C_out, ...), float
bits  0-d tensor, 2..8; >= 32 means off, w is returned unchanged
Bound: |w' - w| <= s/2 (nothing is clipped, s comes from max|w|); at most 2Q+1 values a channel.
Gradient: identity (Bengio, Leonard, Courville 2013, arXiv:1308.3432).
Source: Krishnamoorthi 2018 (arXiv:1806.08342), sections 2.2 to 2.4. The scale commutes with
BatchNorm folding (s *= |gamma / sigma|), which is why it is per output channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 255  # of an unsigned byte


def _or_one(scale: Tensor) -> Tensor:
    """1 where a scale is 0 or subnormal, so that nothing is divided by it."""
    return torch.where(scale >= torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))


def integers(weight: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """``(q, s)``: q of the weight's shape (integral floats in [-Q, Q]), s of shape (C_out, 1, ...)."""
    top = torch.exp2(bits - 1) - 1
    peak = weight.detach().abs().flatten(1).amax(1)
    scale = _or_one(peak / top).reshape(-1, *[1] * (weight.dim() - 1))
    return torch.clamp(torch.round(weight / scale), -top, top), scale


def uniform(weight: Tensor, progress: Tensor, *, bits: Tensor, start: Tensor) -> Tensor:
    """Fake-quantised weight (formula above), same shape.

    Identity where bits >= 32, and before the share ``start`` of the epochs is done.
    """
    q, scale = integers(weight, bits)
    rounded = weight + (q * scale - weight).detach()
    return torch.where((bits >= 32) | (progress < start), weight, rounded)


def byte_range(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point (0-d each) that map [min(low, 0), max(high, 0)] onto 0..255.

    Zero is always a level, so padding and ReLU are exact (Jacob et al. 2018, arXiv:1712.05877,
    section 2.1). A range without width gets scale 1.
    """
    low, high = torch.clamp(low, max=0.0), torch.clamp(high, min=0.0)
    scale = _or_one((high - low) / LEVELS)
    return scale, torch.clamp(torch.round(-low / scale), 0, LEVELS)


def activation(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Fake-quantised activation, x of any shape: u8 with the given scale and zero point.

    Gradient: identity inside the range, 0 outside.
    """
    low, high = -zero_point * scale, (LEVELS - zero_point) * scale
    inside = torch.minimum(torch.maximum(x, low), high)
    rounded = (torch.clamp(torch.round(x / scale) + zero_point, 0, LEVELS) - zero_point) * scale
    return inside + (rounded - inside).detach()
