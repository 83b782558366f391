"""Quantization of activations: unsigned integers of 2 to 8 bits with a zero point.

top  0-d tensor, 2**bits - 1: the largest integer. The file computes with bytes at any number of bits
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.techniques.quantize import or_one


def integer_range(low: Tensor, high: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point (0-d each) that map [min(low, 0), max(high, 0)] onto 0..top.

    Zero is always a level, so padding and ReLU are exact (Jacob et al. 2018, arXiv:1712.05877,
    section 2.1). A range without width gets scale 1.
    """
    low, high = torch.clamp(low, max=0.0), torch.clamp(high, min=0.0)
    scale = or_one((high - low) / top)
    return scale, torch.minimum(torch.clamp(torch.round(-low / scale), min=0.0), top)


def rounded(x: Tensor, scale: Tensor, zero_point: Tensor, top: Tensor) -> Tensor:
    """Fake-quantized activation, x of any shape.

    Gradient to x: 1 inside the range, 0 outside. Gradient to the scale: top - zero_point for values clipped above,
    0 for all others. With zero point 0 this is the gradient of PACT's alpha = scale * top (Choi et al. 2018,
    arXiv:1805.06085, section 3, equation 3).
    Where alpha is trained, ``train.weight_decay`` acts on it as on the weights. This is the paper's L2 regularizer
    for alpha (section 3), which used the coefficient of the weights.
    Differs from the paper: alpha starts at the largest activation seen, not at one value for all layers; inputs below
    zero keep their observed range.
    """
    x = x.to(scale.dtype)  # under autocast x may have a coarser resolution than the quantization grid
    low, high = -zero_point * scale, (top - zero_point) * scale
    inside = torch.minimum(torch.maximum(x, low), high)
    levels = torch.minimum(torch.clamp(torch.round(x / scale) + zero_point, min=0.0), top)
    return inside + ((levels - zero_point) * scale - inside).detach()
