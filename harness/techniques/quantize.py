"""Quantisation of weights: small integers times a scale, with a gradient that passes the rounding.

    w' = q * s      q integral, |q| <= 127, at most 2**bits different values a layer

w        weight of one layer, (C_out, ...), float
learned  tensors that the method trains beside the network ({} for most)
bits     0-d tensor; what each method takes is in the registry. Layers of 32 bits never come here
Q        2**(bits-1) - 1

Every method returns :class:`Rounded`. Scales are per output channel (dimension 0), so that they
commute with BatchNorm folding (s *= |gamma / sigma|); a method that has one scale for a layer
repeats it. Symmetric grids have 2Q+1 values. Unless a method says otherwise its gradient is the
identity (straight through: Bengio, Leonard, Courville 2013, arXiv:1308.3432).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from harness.techniques import order

Tensors = dict[str, Tensor]
BYTE = 127  # the largest integer that a file stores
SHRINKS = 32  # ranges that ``mse`` tries: this many steps down from the maximum
LAST_SHRINK = 0.2


class Rounded(NamedTuple):
    """``weight`` = integers * scale with a gradient; ``integers`` of the weight's shape, integral
    floats; ``scale`` (C_out, 1, ...)."""

    weight: Tensor
    integers: Tensor
    scale: Tensor


def or_one(scale: Tensor) -> Tensor:
    """1 where a scale is 0 or subnormal, so that nothing is divided by it."""
    return torch.where(scale >= torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))


def _across(per_channel: Tensor, weight: Tensor) -> Tensor:
    """(C_out,) or 0-d as (C_out, 1, ...)."""
    return per_channel.expand(weight.shape[0]).reshape(-1, *[1] * (weight.dim() - 1))


def _straight(weight: Tensor, integers: Tensor, scale: Tensor) -> Rounded:
    return Rounded(weight + (integers * scale - weight).detach(), integers, scale)


def _sign(w: Tensor) -> Tensor:
    """1 or -1, 1 for 0."""
    return torch.where(w >= 0, 1.0, -1.0).to(w.dtype)


def _top(bits: Tensor) -> Tensor:
    return torch.clamp(torch.exp2(bits - 1) - 1, min=1.0)


def uniform(weight: Tensor, learned: Tensors, *, bits: Tensor, range: str = "max", percentile: Tensor) -> Rounded:
    """Symmetric uniform grid per output channel; one bit is a sign.

        q = clamp(round(w / s), -Q, Q),  s = r / Q        bits >= 2
        q = sign(w) (sign(0) = 1),       s = mean|w|      bits = 1

    range  r of a channel: ``max`` of |w|; the ``percentile``-th percentile of |w|; ``mse``: of 32
           evenly spaced shares of the maximum, 1 to 0.2, the one of least squared error
    Bound: |w' - w| <= s / 2 where |w| <= r.
    Source: Krishnamoorthi 2018 (arXiv:1806.08342), sections 2.2 to 2.4; one bit: Rastegari et al.
    2016 (arXiv:1603.05279), section 3.1; ``mse``: Banner, Nahshan, Soudry 2019
    (arXiv:1810.05723), section 3.1, searched instead of solved for a distribution.
    """
    w = weight.detach()
    sizes, top = w.abs().flatten(1), _top(bits)
    peak = sizes.amax(1)
    if range == "percentile":
        peak = order.percentile(torch.sort(sizes, dim=1)[0], percentile / 100)
    elif range == "mse":
        peak = _least_squares(w.flatten(1), peak, top)
    several = _across(or_one(peak / top), w)
    one = _across(or_one(sizes.mean(1)), w)
    q = torch.clamp(torch.round(w / several), -top, top)
    sign = bits == 1
    return _straight(weight, torch.where(sign, _sign(w), q), torch.where(sign, one, several))


def _least_squares(rows: Tensor, peak: Tensor, top: Tensor) -> Tensor:
    """The range (C,) of least squared error of each row (C, n)."""
    best, least = peak, torch.full_like(peak, float("inf"))
    for share in torch.linspace(1, LAST_SHRINK, SHRINKS).tolist():
        scale = or_one(share * peak / top).unsqueeze(1)
        error = (torch.clamp(torch.round(rows / scale), -top, top) * scale - rows).square().sum(1)
        best, least = torch.where(error < least, share * peak, best), torch.minimum(error, least)
    return best


def lsq(weight: Tensor, learned: Tensors, *, bits: Tensor) -> Rounded:
    """Learned step size: one step a layer, trained by the loss.

        q = round(clamp(w / s, -Q, Q));  dw'/ds = q - w/s inside the clamp, +-Q outside, times g

    learned  ``step`` s, 0-d, begun by :func:`lsq_begin`;  g = 1 / sqrt(n * Q) with n weights
    The gradient to w is 1 inside the clamp, 0 outside. At one bit q = sign(w), clamped at +-s.
    Source: Esser et al. 2020 (arXiv:1902.08153), equations 1 to 3 and section 2.2, with -Q instead
    of -Q-1 as the lowest integer.
    """
    top = _top(bits)
    g = torch.rsqrt(top * weight.numel())
    step = or_one(learned["step"].abs())
    step = step * g + (step - step * g).detach()
    inside = torch.minimum(torch.maximum(weight / step, -top), top)
    q = torch.where(bits == 1, _sign(weight.detach()), torch.round(inside.detach()))
    return Rounded((inside + (q - inside).detach()) * step, q, _across(step.detach(), weight))


def lsq_begin(weight: Tensor, *, bits: Tensor) -> Tensors:
    """s = 2 * mean|w| / sqrt(Q) (Esser et al. 2020, section 2.1); mean|w| at one bit."""
    return {"step": torch.where(bits == 1, 1.0, 2.0) * weight.abs().mean() / _top(bits).sqrt()}


def dorefa(weight: Tensor, learned: Tensors, *, bits: Tensor, scaled: bool = True) -> Rounded:
    """Weights squashed by tanh, then rounded to 2**bits evenly spaced values without zero.

        t = tanh(w) / max|tanh(w)|;   w' = m * (2 * round(n * (t + 1) / 2) / n - 1),  n = 2**bits - 1

    scaled  m is max|tanh(w)|, so that a layer keeps its size; false: m = 1 as in the paper
    At 8 bits n is 254 (255 values, so that they are bytes), at one bit w' = mean|w| * sign(w).
    The gradient passes the rounding and goes through tanh; m and the maximum are constants to it.
    Source: Zhou et al. 2016 (arXiv:1606.06160), section 2.3.
    """
    squashed = torch.tanh(weight)
    peak = or_one(squashed.detach().abs().amax())
    span = torch.where(bits >= 8, torch.full_like(bits, 2.0 * BYTE), torch.exp2(bits) - 1)
    unit = squashed / peak
    level = torch.round(span * (unit.detach() + 1) / 2)
    size = peak if scaled else torch.ones_like(peak)
    odd = span.remainder(2) == 1  # 2 * level - n is odd where n is: steps of one half need twice the integers
    q = torch.where(odd, 2 * level - span, level - span / 2)
    scale = torch.where(odd, size / span, 2 * size / span)
    one = bits == 1
    q = torch.where(one, _sign(weight.detach()), q)
    scale = _across(torch.where(one, or_one(weight.detach().abs().mean()), scale), weight)
    passed = torch.where(one, weight, unit * size)
    return Rounded(passed + (q * scale - passed).detach(), q, scale)


def standardised(weight: Tensor, learned: Tensors, *, bits: Tensor, range: Tensor) -> Rounded:
    """Subtract the mean, divide by the deviation, round, and undo both.

        z = (w - mu) / sigma;  k = clamp(round(z * Q / range), -Q, Q);  w' = (m * k + o) * s / m
        s = sigma * range / Q,  o = round(m * mu / s)

    mu, sigma  mean and deviation (population) of the layer's weights
    range      > 0, in deviations: what lies further out is clipped
    m          the largest whole number for which m * k + o are bytes: the file stores those, 2Q + 1
               different ones, and the mean is off by s / 2m at most. (An offset in whole steps, m = 1,
               moves all weights together by up to half a step, and batch norm's averages with them.)
    Bound: |w' - w| <= s / 2 + s / 2m where |z| <= range. At one bit k = sign(z) and s = sigma * mean|z|,
    the scale of least squared error.
    """
    w, top = weight.detach(), _top(bits)
    mean, one = w.mean(), bits == 1
    apart = w - mean
    step = or_one(torch.where(one, apart.abs().mean(), apart.square().mean().sqrt() * range / top))
    k = torch.where(one, _sign(apart), torch.clamp(torch.round(apart / step), -top, top))
    finer = torch.clamp(torch.floor((BYTE - 0.5) / (top + (mean / step).abs())), min=1.0)
    q = torch.clamp(finer * k + torch.round(finer * mean / step), -BYTE, BYTE)
    return _straight(weight, q, _across(step / finer, w))


def power_of_two(weight: Tensor, learned: Tensors, *, bits: Tensor) -> Rounded:
    """Zero and signed powers of two of the channel's largest weight: products become shifts.

        q = sign(w) * 2**e,  e = clamp(round(log2(|w| / s)), 0, n - 1),  n = Q magnitudes;  0 below s / 2
        s = max|w| / 2**(n - 1)

    bits  2, 3 or 4 (more would need integers above a byte)
    Source: Miyashita, Lee, Murmann 2016 (arXiv:1603.01025), section 3.1, equation 3; Zhou et al.
    2017 (arXiv:1702.03044), section 2.1, for zero.
    """
    w, most = weight.detach(), _top(bits) - 1
    scale = _across(or_one(w.abs().flatten(1).amax(1) / torch.exp2(most)), w)
    size = w.abs() / scale
    exponent = torch.clamp(torch.round(torch.log2(torch.clamp(size, min=0.25))), 0.0, None)
    power = torch.exp2(torch.minimum(exponent, most))
    return _straight(weight, torch.where(size < 0.5, torch.zeros_like(w), torch.sign(w) * power), scale)
