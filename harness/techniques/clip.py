"""Clipping: bound the gradient before an optimizer step, or the weights after it.

gradient, params  flat vectors (P,) of all parameters, for methods on the ``gradient``
grads, weights    dicts of tensors of any shape by parameter, for methods on ``gradients`` or ``weights``
memory            the method's own tensors, carried from step to step ({} for most)
threshold         0-d tensor > 0; ``inf`` means off (the gradient is returned unchanged in value)

Every method returns its first argument, clipped, a 0-d bool that is true if this step was clipped, and its memory.
The mean of the bools over the steps is the record's share of clipped steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.techniques import order

Tensors = dict[str, Tensor]
Clipped = tuple[Tensor, Tensor, Tensors]
ClippedByName = tuple[Tensors, Tensor, Tensors]


def norm_of(gradient: Tensor) -> Tensor:
    """Euclidean norm, 0-d."""
    return gradient.square().sum().sqrt()


def none(gradient: Tensor, params: Tensor, memory: Tensors) -> Clipped:
    """No clipping."""
    return gradient, torch.zeros((), dtype=torch.bool, device=gradient.device), memory


def norm(gradient: Tensor, params: Tensor, memory: Tensors, *, threshold: Tensor) -> Clipped:
    """Scale the whole gradient so that its norm is at most ``threshold``.

        g' = g * min(1, threshold / ||g||)

    Bound: ||g'|| <= threshold (up to rounding); the direction is kept.
    Source: Pascanu, Mikolov, Bengio 2013 (arXiv:1211.5063), section 3.2, algorithm 1.
    Differs from ``torch.nn.utils.clip_grad_norm_``, which adds 1e-6 to the norm and so ends just
    below the threshold.
    """
    total = norm_of(gradient)
    return gradient * torch.clamp(threshold / total, max=1.0), total > threshold, memory


def value(gradient: Tensor, params: Tensor, memory: Tensors, *, threshold: Tensor) -> Clipped:
    """Clamp every element to [-threshold, threshold].

        g'_i = min(max(g_i, -threshold), threshold)

    Bound: max|g'| <= threshold; the direction may change.
    Source: Mikolov 2012 (PhD thesis, Brno), section 3.2.2; ``torch.nn.utils.clip_grad_value_``.
    """
    return _clamped(gradient, threshold), gradient.abs().max() > threshold, memory


def weight_range(weights: Tensors, params: Tensors, memory: Tensors, *, threshold: Tensor) -> ClippedByName:
    """Clamp the weights themselves to [-threshold, threshold] after every step.

        w'_i = min(max(w_i, -threshold), threshold)

    Bound: max|w'| <= threshold, hence a quantizer's step of at most threshold / Q. Biases and
    normalization are left alone: they are not stored in few bits.
    Source: Arjovsky, Chintala, Bottou 2017 (arXiv:1701.07875), algorithm 1, line 7.
    """
    peak = torch.stack([w.abs().max() for w in weights.values()]).max()
    return {name: _clamped(w, threshold) for name, w in weights.items()}, peak > threshold, memory


def _clamped(tensor: Tensor, threshold: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(tensor, -threshold), threshold)


def agc(grads: Tensors, params: Tensors, memory: Tensors, *, threshold: Tensor, least: Tensor) -> ClippedByName:
    """Adaptive gradient clipping: each unit's gradient norm is at most a share of its weight norm.

        g'_i = g_i * min(1, threshold * max(||w_i||, least) / ||g_i||)

    w_i, g_i   the weights of one output unit (row, filter) and their gradient; a bias or a gain is
               one unit as a whole
    threshold  > 0, 0.01 to 0.16 in the paper
    least      > 0: lower bound on the weight norm, so that units with zero weights can train
    Bound: ||g'_i|| <= threshold * max(||w_i||, least) for every unit.
    Source: Brock, De, Smith, Simonyan 2021 (arXiv:2102.06171), section 4.1, equation 3. The paper
    leaves the last linear layer out; here it is clipped like the others.
    """
    clipped, any_unit = {}, []
    for name, g in grads.items():
        bound = threshold * torch.maximum(_unit_norms(params[name]), least)
        size = _unit_norms(g)
        too_large = size > bound
        clipped[name] = torch.where(too_large, g * (bound / torch.where(too_large, size, torch.ones_like(size))), g)
        any_unit.append(too_large.any())
    return clipped, torch.stack(any_unit).any(), memory


def _unit_norms(t: Tensor) -> Tensor:
    """Norm of each unit, shaped to broadcast over ``t``."""
    if t.dim() <= 1:
        return t.square().sum().sqrt()
    return t.flatten(1).square().sum(1).sqrt().reshape(-1, *[1] * (t.dim() - 1))


def auto(gradient: Tensor, params: Tensor, memory: Tensors, *, percentile: Tensor) -> Clipped:
    """AutoClip: the threshold is a percentile of the gradient norms seen so far.

        threshold_t = P-th percentile of ||g_1||, ..., ||g_t||;  g' = g * min(1, threshold_t / ||g||)

    percentile  P in [0, 100]; 10 in the paper; 100 is off
    memory      ``norms`` (H,), the last H = 1024 norms, ``inf`` where there is none yet; ``seen`` (0-d), the number
                of steps. From step H + 1 on the newest norm replaces the oldest (the paper keeps all)
    Bound: ||g'|| <= threshold_t.
    Source: Seetharaman, Wichern, Pardo, Le Roux 2020 (arXiv:2007.14469), section 3.
    """
    total, length = norm_of(gradient), memory["norms"].shape[-1]
    place = torch.arange(length, device=total.device) == torch.remainder(memory["seen"], length)
    norms = torch.where(place, total, memory["norms"])
    seen = memory["seen"] + 1
    ascending, _ = torch.sort(norms)
    threshold = order.percentile(ascending, percentile / 100, torch.clamp(seen, max=float(length)))
    scale = torch.clamp(threshold / total, max=1.0)
    return gradient * scale, total > threshold, {"norms": norms, "seen": seen}
