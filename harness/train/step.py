"""One training step, written for one student. Read this module first in ``train/``.

    step(plan, state, batch, hparams) -> (state, metrics)

``plan`` holds what must be equal for students that run together (the network's form, the methods,
what is switched on); ``state`` and ``hparams`` hold tensors. The parameters lie in one flat vector,
so that clipping and the optimizer are a few operators, however many layers there are; what methods
train beside the network lies there too, under names that begin with ``~``. With K students, every
tensor has a leading K, ``plan.forward`` is one that computes K networks, and ``plan.lift``
(``torch.vmap``) maps the techniques, each written for one student, over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from harness.techniques import clip as clipping
from harness.techniques import quantize
from harness.train.forward import Forward, Tensors, Watch
from harness.train.quantization_points import Ranges

LEARNED = "~"  # what a method trains: ``~<method>.<layer or point>.<name>``


def alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """The lift of one student."""
    return function


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in the flat vector: names and shapes, in order."""

    shapes: dict[str, tuple[int, ...]]

    def split(self, flat: Tensor) -> Tensors:
        """Views of ``flat`` (P,) or (K, P) by name, of shape ``(*shape)`` or ``(K, *shape)``."""
        parts = flat.split([prod(s) for s in self.shapes.values()], dim=-1)
        return {
            name: part.reshape((*part.shape[:-1], *shape))
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    @staticmethod
    def of(params: Mapping[str, Tensor]) -> Layout:
        return Layout({name: tuple(p.shape) for name, p in params.items()})

    @staticmethod
    def join(params: Mapping[str, Tensor]) -> Tensor:
        """One student's parameters as a flat vector."""
        return torch.cat([p.detach().flatten() for p in params.values()])


@dataclass(frozen=True)
class Bound:
    """A method with its words (options that are not numbers) filled in; equal ones are equal."""

    function: Callable[..., Any]
    words: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *tensors: Any, **numbers: Tensor) -> Any:
        return self.function(*tensors, **dict(self.words), **numbers)


@dataclass(frozen=True)
class Plan:
    """The static part of a step.

    layers     paths of the prunable, quantizable layers
    clip, clip_on  the clipping method and what it acts on (:attr:`ClipMethod.on`)
    distill, optimize  the other chosen methods
    quantize   the weight quantizer, None while it is off
    rounded    the layers whose weights it rounds
    penalty    what pulls parameters to zero, None without one
    penalized  the names of those parameters
    alphas     the quantization points whose upper end is trained -> its parameter, one for all readers of a tensor
    watch      what of the student the distillation sees beside its logits: name -> module path
    needs      what it asks of the teacher, see :mod:`harness.train.teacher`
    guide      joins the teacher's parameter gradient with the student's, None where it is not asked for
    precision  of convolutions and products; None: that of the parameters
    lift       ``alone``, or ``torch.vmap`` for K students
    """

    forward: Forward
    layout: Layout
    layers: tuple[str, ...]
    clip: Callable[..., Any]
    distill: Callable[..., Tensor]
    optimize: Callable[..., tuple[Tensor, Tensors]]
    clip_on: str = "gradient"
    quantize: Callable[..., Any] | None = None
    rounded: tuple[str, ...] = ()
    penalty: Callable[..., Tensor] | None = None
    penalized: tuple[str, ...] = ()
    alphas: Mapping[str, str] = field(default_factory=dict)
    watch: Watch = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    guide: Callable[..., Tensor] | None = None
    precision: torch.dtype | None = None
    lift: Callable[[Callable[..., Any]], Callable[..., Any]] = alone


@dataclass(frozen=True)
class State:
    """One student's tensors: flat parameters (P,), buffers, flat optimizer moments, masks (by layer;
    empty until weights are pruned), activation ranges (empty until they are frozen), the clipping
    method's memory."""

    params: Tensor
    buffers: Tensors
    moments: Tensors
    masks: Tensors
    ranges: Ranges
    memory: Tensors


@dataclass(frozen=True)
class Hparams:
    """The sampled numbers as 0-d tensors: the methods' keywords, the quantizer's by layer. ``teacher``:
    the teacher's tensors by name, shaped as the student's ({} where the method needs none)."""

    clip: Tensors
    quant: dict[str, Tensors]
    distill: Tensors
    optim: Tensors
    prune: Tensors = field(default_factory=dict)
    teacher: Tensors = field(default_factory=dict)


def learned_of(params: Tensors, owner: str) -> Tensors:
    """What a method trains for ``owner``: name -> tensor."""
    prefix = f"{LEARNED}{owner}."
    return {name.removeprefix(prefix): p for name, p in params.items() if name.startswith(prefix)}


def effective_weights(plan: Plan, params: Tensors, masks: Tensors, quant: Mapping[str, Tensors]) -> Tensors:
    """The network's parameters as it computes with them: masked and rounded."""
    used = {name: p for name, p in params.items() if not name.startswith(LEARNED)}
    rounded = plan.rounded if plan.quantize is not None else ()
    for layer in masks.keys() - set(rounded):
        used[f"{layer}.weight"] = used[f"{layer}.weight"] * masks[layer]
    for layer in rounded:
        used[f"{layer}.weight"] = rounded_layer(plan, layer, params, masks, quant).weight
    return used


def rounded_layer(
    plan: Plan, layer: str, params: Tensors, masks: Tensors, quant: Mapping[str, Tensors]
) -> quantize.Rounded:
    """What the plan's quantizer makes of a layer's weight."""
    method = plan.quantize
    assert method is not None

    def rounding(weight: Tensor, mask: Tensors, learned: Tensors, options: Tensors) -> quantize.Rounded:
        return quantize.rounded(method, weight, mask.get(layer), learned, **options)

    layer_masks = {layer: masks[layer]} if layer in masks else {}
    learned = learned_of(params, f"quant.{layer}")
    return plan.lift(rounding)(params[f"{layer}.weight"], layer_masks, learned, quant[layer])


def effective_ranges(plan: Plan, ranges: Ranges, params: Tensors) -> Ranges:
    """The activation ranges, those that are trained (PACT's alpha) from their tensors."""
    effective = dict(ranges)
    for point, name in plan.alphas.items():
        _, zero, top = ranges[point]
        effective[point] = (params[name].abs() / top, zero, top)
    return effective


def _clipped(
    plan: Plan, gradient: Tensor, params: Tensor, memory: Tensors, options: Tensors
) -> tuple[Tensor, Tensor, Tensors]:
    """The gradient after clipping, clipped or not, the method's memory."""
    if plan.clip_on == "gradients":
        grads, weights = plan.layout.split(gradient), plan.layout.split(params)
        bounded, clipped, memory = plan.clip(grads, weights, memory, **options)
        return torch.cat([bounded[name].flatten() for name in grads]), clipped, memory
    return plan.clip(gradient, params, memory, **options)


def _projected(plan: Plan, params: Tensor, memory: Tensors, options: Tensors) -> tuple[Tensor, Tensor, Tensors]:
    """The parameters with their layers' weights clipped, clipped or not, the method's memory."""
    named = plan.layout.split(params)
    weights = {f"{layer}.weight": named[f"{layer}.weight"] for layer in plan.layers}
    bounded, clipped, memory = plan.clip(weights, weights, memory, **options)
    return torch.cat([bounded.get(name, p).flatten() for name, p in named.items()]), clipped, memory


def update(
    plan: Plan, params: Tensor, gradient: Tensor, moments: Tensors, memory: Tensors, clip: Tensors, optim: Tensors
) -> tuple[Tensor, Tensors, Tensors, Tensor, Tensor]:
    """Clip and step one student: new parameters, moments and memory, gradient norm before clipping,
    clipped or not."""
    norm = clipping.norm_of(gradient)
    clipped = torch.zeros((), dtype=torch.bool, device=params.device)
    if plan.clip_on != "weights":
        gradient, clipped, memory = _clipped(plan, gradient, params, memory, clip)
    params, moments = plan.optimize(params, gradient, moments, **optim)
    if plan.clip_on == "weights":
        params, clipped, memory = _projected(plan, params, memory, clip)
    return params, moments, memory, norm, clipped


def step(plan: Plan, state: State, batch: tuple[Tensor, Tensor, Tensors], hparams: Hparams) -> tuple[State, Tensors]:
    """One optimizer step on ``(x, labels, the teacher's quantities)``.

    Metrics: ``loss``, ``norm``, ``clipped``, each 0-d (or (K,))."""
    flat = state.params.detach().requires_grad_()
    loss, buffers = _loss(plan, state, plan.layout.split(flat), batch, hparams)
    (gradient,) = torch.autograd.grad(loss.sum(), flat)
    if plan.guide is not None:
        gradient = _guided(plan, plan.guide, state, gradient, batch, hparams)
    with torch.no_grad():
        moved, moments, memory, norm, clipped = plan.lift(lambda *arguments: update(plan, *arguments))(
            state.params, gradient, state.moments, state.memory, hparams.clip, hparams.optim
        )
    new_state = State(moved, buffers, moments, state.masks, state.ranges, memory)
    return new_state, {"loss": loss.detach(), "norm": norm, "clipped": clipped}


def _loss(
    plan: Plan, state: State, params: Tensors, batch: tuple[Tensor, Tensor, Tensors], hparams: Hparams
) -> tuple[Tensor, Tensors]:
    """The loss and the new buffers."""
    x, labels, teacher = batch
    if "input_gradient" in plan.needs:
        x = x.detach().requires_grad_()
    used = effective_weights(plan, params, state.masks, hparams.quant)
    quantities, buffers = _forward(
        plan, used, state.buffers, effective_ranges(plan, state.ranges, params), x, plan.watch
    )
    if "input_gradient" in plan.needs:
        logits = quantities["logits"]
        if state.buffers:  # batch norm of the batch would mix the samples' gradients
            ranges = effective_ranges(plan, state.ranges, params)
            logits = _forward(plan, used, buffers, ranges, x, {}, False)[0]["logits"]
        quantities["input_gradient"] = input_gradient(logits, labels, x, create_graph=True)
    if "parameters" in plan.needs:
        quantities |= {name: params[name] for name in hparams.teacher}
    measure = plan.lift(lambda s, y, t, learned, fixed, options: plan.distill(s, y, {**t, **fixed}, learned, **options))
    loss = measure(quantities, labels, teacher, learned_of(params, "distill"), hparams.teacher, hparams.distill)
    penalty = plan.penalty
    if penalty is not None:
        pulled = [params[name] for name in plan.penalized]
        loss = loss + plan.lift(lambda tensors, strength: penalty(tensors, strength))(pulled, hparams.prune["strength"])
    return loss, buffers


def _forward(
    plan: Plan, params: Tensors, buffers: Tensors, ranges: Ranges, x: Tensor, watch: Watch, training: bool = True
) -> tuple[Tensors, Tensors]:
    """The forward pass in the plan's precision; what it gives has x's."""
    if plan.precision is None:
        return plan.forward(params, buffers, ranges, x, training, watch)
    with torch.autocast(x.device.type, plan.precision, cache_enabled=False):
        quantities, buffers = plan.forward(params, buffers, ranges, x, training, watch)
    return {name: t.to(x.dtype) for name, t in quantities.items()}, buffers


def input_gradient(logits: Tensor, labels: Tensor, x: Tensor, create_graph: bool = False) -> Tensor:
    """Gradient of each sample's cross-entropy to its input, of x's shape."""
    return torch.autograd.grad(_cross_entropies(logits, labels), x, create_graph=create_graph)[0]


def network_loss(plan: Plan, params: Tensors, buffers: Tensors, x: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the network at ``params``, unmasked and unrounded: mean over the samples, summed
    over students, 0-d."""
    quantities, _ = _forward(plan, params, buffers, {}, x, {})
    return _cross_entropies(quantities["logits"], labels) / labels.shape[-1]


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed over everything, 0-d."""
    return -torch.log_softmax(logits, -1).gather(-1, labels.unsqueeze(-1)).sum()


def _guided(
    plan: Plan,
    guide: Callable[..., Tensor],
    state: State,
    gradient: Tensor,
    batch: tuple[Tensor, Tensor, Tensors],
    hparams: Hparams,
) -> Tensor:
    """The student's gradient joined with the teacher's, at the teacher's parameters, on the same batch;
    what only the student trains keeps its own."""
    x, labels, _ = batch
    theirs = {name: t.detach().requires_grad_() for name, t in hparams.teacher.items()}
    teacher_gradients = torch.autograd.grad(network_loss(plan, theirs, state.buffers, x, labels), list(theirs.values()))
    ours, lanes = plan.layout.split(gradient), gradient.shape[:-1]
    for name, g in zip(theirs, teacher_gradients, strict=True):
        options = {
            k: hparams.distill[k].reshape(*lanes, *[1] * (g.dim() - len(lanes))) for k in ("weight", "threshold")
        }
        ours[name] = guide(ours[name], g, **options)
    return torch.cat([g.reshape(*lanes, -1) for g in ours.values()], -1)
