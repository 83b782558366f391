"""Quantization of weights: small integers times a scale, with a straight-through gradient.

    w' = q * s      q integral, |q| <= 127, at most 2**bits different values per layer; 0 where w is pruned

w        weight of one layer, (C_out, ...), float, 0 where it is pruned
mask     of w's shape, 1 where a weight is kept, 0 where it is pruned; None if nothing is pruned
learned  tensors that the method trains beside the network ({} for most)
bits     0-d tensor; the registry lists the values that each method accepts. 32 bits (float) are not passed here
Q        2**(bits-1) - 1

Every method returns :class:`Rounded`. Call it through :func:`rounded`, which holds pruned weights at 0, since not
every grid has a zero. A one-bit scale is a mean over the kept weights only: over all weights, a layer of which a
tenth is kept would get a tenth of the scale. At more bits, where 0 is a level or close to one, mean and deviation
are those of the whole layer, zeros included.
Scales are per output channel (dimension 0), so that they commute with BatchNorm folding (s *= |gamma / sigma|);
a method with one scale per layer repeats it. Symmetric grids have 2Q+1 values. Unless a method says
otherwise its gradient is the identity (straight through: Bengio, Leonard, Courville 2013, arXiv:1308.3432).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.techniques import order

Tensors = dict[str, Tensor]
INT8_MAX = 127  # the largest integer that a file stores
SHRINKS = 32  # number of ranges that ``mse`` tries; more find a smaller error and take longer
LAST_SHRINK = 0.2  # the smallest of them, as a share of max|w|


class Rounded(NamedTuple):
    """A quantized layer.

    weight    integers * scale; gradients pass through it
    integers  whole numbers, stored as floats, in the weight's shape
    scale     (C_out, 1, ...)
    """

    weight: Tensor
    integers: Tensor
    scale: Tensor


def rounded(
    method: Callable[..., Rounded], weight: Tensor, mask: Tensor | None, learned: Tensors, **options: Any
) -> Rounded:
    """A layer's weight quantized by ``method``; pruned weights are 0 and have no gradient."""
    if mask is None:
        return method(weight, None, learned, **options)
    quantized = method(weight * mask, mask, learned, **options)
    return Rounded(quantized.weight * mask, quantized.integers * mask, quantized.scale)


def or_one(scale: Tensor) -> Tensor:
    """The scale, replaced by 1 where it is 0 or subnormal, so that division by it is safe."""
    return torch.where(scale >= torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))


def _count(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Number of kept weights of each row (..., n), at least 1, of shape (...)."""
    if mask is None:
        return rows.new_full(rows.shape[:-1], float(rows.shape[-1]))
    return torch.clamp(mask.reshape(rows.shape).sum(-1), min=1.0)


def _mean(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the kept values of each row (..., n), of shape (...); 0 where none is kept."""
    if mask is None:
        return rows.mean(-1)
    return (rows * mask.reshape(rows.shape)).sum(-1) / _count(rows, mask)


def _averaged(mask: Tensor | None, bits: Tensor) -> Tensor | None:
    """The mask of the weights that enter mean and deviation: the kept ones at one bit, all at more bits."""
    return None if mask is None else torch.where(bits == 1, mask, torch.ones_like(mask))


def _across(per_channel: Tensor, weight: Tensor) -> Tensor:
    """A scale (C_out,) or 0-d, reshaped to (C_out, 1, ...)."""
    return per_channel.expand(weight.shape[0]).reshape(-1, *[1] * (weight.dim() - 1))


def _straight(weight: Tensor, integers: Tensor, scale: Tensor) -> Rounded:
    return Rounded(weight + (integers * scale - weight).detach(), integers, scale)


def _sign(w: Tensor) -> Tensor:
    """1 or -1, 1 for 0."""
    return torch.where(w >= 0, 1.0, -1.0).to(w.dtype)


def _top(bits: Tensor) -> Tensor:
    return torch.clamp(torch.exp2(bits - 1) - 1, min=1.0)


def uniform(
    weight: Tensor, mask: Tensor | None, learned: Tensors, *, bits: Tensor, range: str = "max", percentile: Tensor
) -> Rounded:
    """Symmetric uniform grid per output channel; one bit is a sign.

        q = clamp(round(w / s), -Q, Q),  s = r / Q        bits >= 2
        q = sign(w) (sign(0) = 1),       s = mean|w|      bits = 1, over the kept weights

    range  r of a channel's kept weights: ``max`` of |w|; the ``percentile``-th percentile of |w|; or ``mse``: among
           32 evenly spaced shares of the maximum, from 1 to 0.2, the one with the least squared error
    Bound: |w' - w| <= s / 2 where |w| <= r.
    Source: Krishnamoorthi 2018 (arXiv:1806.08342), sections 2.2 to 2.4; one bit: Rastegari et al.
    2016 (arXiv:1603.05279), section 3.1; ``mse``: Banner, Nahshan, Soudry 2019
    (arXiv:1810.05723), section 3.1, by a search instead of a closed form for an assumed distribution.
    """
    w = weight.detach()
    sizes, top = w.abs().flatten(1), _top(bits)
    peak = sizes.amax(1)
    if range == "percentile":
        peak = _percentile(sizes, mask, percentile / 100)
    elif range == "mse":
        peak = _least_squares(w.flatten(1), peak, top)
    several = _across(or_one(peak / top), w)
    one = _across(or_one(_mean(sizes, mask)), w)
    q = torch.clamp(torch.round(w / several), -top, top)
    sign = bits == 1
    return _straight(weight, torch.where(sign, _sign(w), q), torch.where(sign, one, several))


def _percentile(sizes: Tensor, mask: Tensor | None, share: Tensor) -> Tensor:
    """The ``share``-quantile of the kept values of each row (C, n), of shape (C,); 0 where none is kept."""
    if mask is None:
        return order.percentile(torch.sort(sizes, dim=1)[0], share)
    is_kept = mask.reshape(sizes.shape) > 0
    ascending = torch.sort(torch.where(is_kept, sizes, float("inf")), dim=1)[0]
    percentiles = order.percentile(ascending, share, _count(sizes, mask))
    return torch.where(is_kept.any(1), percentiles, torch.zeros_like(percentiles))


def _least_squares(rows: Tensor, peak: Tensor, top: Tensor) -> Tensor:
    """The range (C,) with the least squared quantization error for each row (C, n)."""
    best, least = peak, torch.full_like(peak, float("inf"))
    for share in torch.linspace(1, LAST_SHRINK, SHRINKS).tolist():
        scale = or_one(share * peak / top).unsqueeze(1)
        error = (torch.clamp(torch.round(rows / scale), -top, top) * scale - rows).square().sum(1)
        best, least = torch.where(error < least, share * peak, best), torch.minimum(error, least)
    return best


def lsq(weight: Tensor, mask: Tensor | None, learned: Tensors, *, bits: Tensor) -> Rounded:
    """Learned step size: one step per layer, trained by the loss.

        q = round(clamp(w / s, -Q, Q));  dw'/ds = q - w/s inside the clamp, +-Q outside, times g

    learned  ``step`` s, 0-d, initialized by :func:`lsq_begin`;  g = 1 / sqrt(n * Q) with n weights
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


def lsq_begin(weight: Tensor, mask: Tensor | None, *, bits: Tensor) -> Tensors:
    """The initial step s = 2 * mean|w| / sqrt(Q) (Esser et al. 2020, section 2.1); at one bit mean|w| of kept weights.

    At two bits and more the mean includes the zeros of pruned weights. On the digits with 90 % pruned (three seeds)
    this is not worse: accuracy 0.931 and 0.955 at two and three bits, against 0.943 and 0.937 with the mean of the
    kept weights.
    """
    size = _mean(weight.abs().flatten(), _averaged(mask, bits))
    return {"step": torch.where(bits == 1, 1.0, 2.0) * size / _top(bits).sqrt()}


def dorefa(weight: Tensor, mask: Tensor | None, learned: Tensors, *, bits: Tensor, scaled: bool = True) -> Rounded:
    """Weights squashed by tanh, then rounded to 2**bits evenly spaced values without zero.

        t = tanh(w) / max|tanh(w)|;   w' = m * (2 * round(n * (t + 1) / 2) / n - 1),  n = 2**bits - 1

    scaled  true: m = max|tanh(w)|, so that the weights keep their magnitude; false: m = 1 as in the paper
    At 8 bits n is 254 (255 values, which fit into a byte). At one bit w' = mean|w| * sign(w), with the mean of
    the kept weights.
    The gradient is straight through for the rounding and exact for tanh; m and the maximum are treated as constants.
    Source: Zhou et al. 2016 (arXiv:1606.06160), section 2.3.
    """
    squashed = torch.tanh(weight)
    peak = or_one(squashed.detach().abs().amax())
    span = torch.where(bits >= 8, torch.full_like(bits, 2.0 * INT8_MAX), torch.exp2(bits) - 1)
    unit = squashed / peak
    level = torch.round(span * (unit.detach() + 1) / 2)
    size = peak if scaled else torch.ones_like(peak)
    odd = span.remainder(2) == 1  # for odd n the grid has steps of one half: doubled integers make it integral
    q = torch.where(odd, 2 * level - span, level - span / 2)
    scale = torch.where(odd, size / span, 2 * size / span)
    one = bits == 1
    q = torch.where(one, _sign(weight.detach()), q)
    scale = _across(torch.where(one, or_one(_mean(weight.detach().abs().flatten(), mask)), scale), weight)
    passed = torch.where(one, weight, unit * size)
    return Rounded(passed + (q * scale - passed).detach(), q, scale)


def standardized(weight: Tensor, mask: Tensor | None, learned: Tensors, *, bits: Tensor, range: Tensor) -> Rounded:
    """Subtract the mean, divide by the deviation, round, and undo both.

        z = (w - mu) / sigma;  k = clamp(round(z * sigma / s), -K, K);  w' = (m * k + o) * s / m
        s = sigma * range / Q,  K = Q,  o = round(m * mu / s)

    mu, sigma  mean and population deviation of the layer's weights, with pruned weights as zeros; at one bit those of
               the kept weights. (With 90 % pruned, the kept weights lie about one deviation from their own mean.
               Statistics of the kept weights would then round nearly all of them to that mean at two bits and range 3:
               0.565 instead of 0.927 on the digits.)
    range      > 0, in deviations: values further out are clipped
    m          the largest integer for which m * k + o fits into a byte. The file stores m * k + o, 2Q + 1
               different values, and the mean is off by at most s / 2m. (With m = 1 the offset is a whole number of
               steps: it moves all weights by up to half a step, and with them the averages in batch norm.)
    If k + o does not fit into a byte even at m = 1 (at 8 bits with |mu| > s / 2; at fewer where |mu| is many sigma),
    the step grows to s = (sigma * range + |mu|) / 126, with K = round(sigma * range / s) < Q.
    Bound: |w' - w| <= s / 2 + s / 2m where |z| <= range, at 2 to 8 bits. At one bit k = sign(z) and
    s = sigma * mean|z|, the scale with the least squared error.
    Source: the article that ``search_spaces/sources/clip_standardized.yaml`` reproduces. It rounds z to whole
    deviations, scales by R, and undoes the standardization. ``bits: 3, range: 3`` equals R = 1: then
    s = sigma, so k is round(z), up to three deviations. Differs from the article: a step may be any share of a
    deviation; there is no R, which would only stretch all weights about their mean; the mean is stored as above.
    """
    w, top, one = weight.detach(), _top(bits), bits == 1
    counted = _averaged(mask, bits)
    mean = _mean(w.flatten(), counted)
    apart = w - mean
    spread = _mean(apart.square().flatten(), counted).sqrt() * range
    reach = torch.where(one, _mean(apart.abs().flatten(), counted), spread)
    step = or_one(reach / top)
    fits = top + torch.round((mean / step).abs()) <= INT8_MAX
    step = torch.where(fits, step, or_one((reach + mean.abs()) / (INT8_MAX - 1)))
    last = torch.where(fits, top, torch.round(reach / step))
    rounded_apart = torch.minimum(torch.maximum(torch.round(apart / step), -last), last)
    k = torch.where(one, _sign(apart) * last, rounded_apart)
    finer = torch.clamp(torch.floor((INT8_MAX - 0.5) / (last + (mean / step).abs())), min=1.0)
    return _straight(weight, finer * k + torch.round(finer * mean / step), _across(step / finer, w))


def power_of_two(weight: Tensor, mask: Tensor | None, learned: Tensors, *, bits: Tensor) -> Rounded:
    """Zero and signed powers of two, scaled to the channel's largest weight, so that products are bit shifts.

        q = sign(w) * 2**e,  e = clamp(round(log2(|w| / s)), 0, n - 1),  n = Q magnitudes;  0 below s / 2
        s = max|w| / 2**(n - 1)

    bits  2, 3 or 4 (more bits need integers that do not fit into a byte)
    Source: Miyashita, Lee, Murmann 2016 (arXiv:1603.01025), section 3.1, equation 3; Zhou et al.
    2017 (arXiv:1702.03044), section 2.1, for zero.
    """
    w, most = weight.detach(), _top(bits) - 1
    scale = _across(or_one(w.abs().flatten(1).amax(1) / torch.exp2(most)), w)
    size = w.abs() / scale
    exponent = torch.clamp(torch.round(torch.log2(torch.clamp(size, min=0.25))), 0.0, None)
    power = torch.exp2(torch.minimum(exponent, most))
    return _straight(weight, torch.where(size < 0.5, torch.zeros_like(w), torch.sign(w) * power), scale)
