"""When rounding of weights and activations starts, and the resulting integers.

Weights are rounded from the share ``quant.start`` of the epochs on (0: from the start; 1: only after training).
Activation ranges are observed and frozen at the start of the last third of the epochs. With ``activations: pact`` they
are observed when rounding of the weights starts, and trained from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from harness.methods import FLOAT_BITS, load_target
from harness.recipe import Selected
from harness.techniques import QUANTIZERS
from harness.train import bind
from harness.train.forward import Tensors, plain
from harness.train.quantization_points import Ranges, observed_ranges, owners
from harness.train.step import LEARNED, Layout, effective_ranges, effective_weights, rounded_layer
from harness.train.student import Run

FREEZE_AT = 2 / 3  # share of the epochs after which activation ranges are frozen; the rest is trained with them
CALIBRATION = 512  # number of training samples from which activation ranges are observed


@dataclass(frozen=True)
class Quantized:
    """The integers that the file stores, and their scales.

    integers     layer path -> int8 array of the weight's shape, at most 2**bits different values, and 0
                 where weights are pruned
    scales       layer path -> float32 (C_out,): weight = integers * scales, before BatchNorm folding
    bits         layer path -> 1..8. Layers that are not rounded are absent here and from integers and scales
    activations  quantization point -> (scale, zero point, largest integer)
    """

    integers: dict[str, np.ndarray]
    scales: dict[str, np.ndarray]
    bits: dict[str, int]
    activations: dict[str, tuple[float, int, int]]


def numbers(selected: Selected, layers: Sequence[str], device: torch.device) -> dict[str, Tensors]:
    """The quantizer's numeric options for every layer, as 0-d tensors."""
    common = bind.numbers(selected, QUANTIZERS, device)
    bits = bind.by_layer("quant.bits", selected.options["bits"], layers)
    return {layer: {**common, "bits": torch.tensor(float(bits[layer]), device=device)} for layer in layers}


def bits_of(run: Run) -> dict[str, int]:
    """The bits of every layer."""
    return bind.by_layer("quant.bits", run.recipe.quant.options["bits"], run.plan.layers)


def enter(run: Run, progress: float) -> Run:
    """The run with the rounding that the recipe asks for at ``progress`` (share of the epochs) switched on."""
    options = run.recipe.quant.options
    rounded = tuple(layer for layer, bits in bits_of(run).items() if bits < FLOAT_BITS)
    if not rounded or progress < options["start"]:
        return run
    if run.plan.quantize is None:
        run = _with_weights(run, rounded)
    trained = options["activations"] == "pact"
    if not run.state.ranges and progress >= (options["start"] if trained else max(options["start"], FREEZE_AT)):
        ranges, first_reader = _calibrate(run)
        run = replace(run, state=replace(run.state, ranges=ranges))
        run = _with_alphas(run, first_reader) if trained else run
    return run


def _with_weights(run: Run, rounded: tuple[str, ...]) -> Run:
    """The run with the weight quantizer switched on, including the parameters that it trains."""
    method, plan = QUANTIZERS[run.recipe.quant.name], run.plan
    if method.learns:
        first, weights, masks = load_target(method.learns), used_weights(run), run.state.masks
        begun = {
            f"{LEARNED}quant.{layer}.{name}": tensor
            for layer in rounded
            for name, tensor in first(weights[f"{layer}.weight"], masks.get(layer), **run.hparams.quant[layer]).items()
        }
        run = _grown(run, begun)
    plan = replace(run.plan, quantize=bind.bound(run.recipe.quant, QUANTIZERS), rounded=rounded)
    return replace(run, plan=plan)


def _with_alphas(run: Run, first_reader: Mapping[str, str]) -> Run:
    """PACT: the run with a trained upper end for every tensor without negative values.

    All points that read a tensor share its upper end, because the file rounds the tensor once.
    """
    alphas = {
        point: f"{LEARNED}pact.{first_reader[point]}.alpha"
        for point, (_, zero, _) in run.state.ranges.items()
        if zero.item() == 0
    }
    begun = {name: run.state.ranges[point][0] * run.state.ranges[point][2] for point, name in alphas.items()}
    run = _grown(run, begun)
    return replace(run, plan=replace(run.plan, alphas=alphas))


def _grown(run: Run, tensors: Tensors) -> Run:
    """The run with further trained tensors, whose optimizer moments start at zero."""
    before, zeros = run.plan.layout, {name: torch.zeros_like(t) for name, t in tensors.items()}
    params = {**before.split(run.state.params), **tensors}
    moments = {name: Layout.join({**before.split(m), **zeros}) for name, m in run.state.moments.items()}
    state = replace(run.state, params=Layout.join(params), moments=moments)
    return replace(run, state=state, plan=replace(run.plan, layout=Layout.of(params)))


def used_weights(run: Run) -> Tensors:
    """The network's parameters as its forward pass uses them: masked and rounded."""
    params = run.plan.layout.split(run.state.params)
    return effective_weights(run.plan, params, run.state.masks, run.hparams.quant)


def used_ranges(run: Run) -> Ranges:
    """The current activation ranges."""
    return effective_ranges(run.plan, run.state.ranges, run.plan.layout.split(run.state.params))


@torch.no_grad()
def _calibrate(run: Run) -> tuple[Ranges, dict[str, str]]:
    """Observe activation ranges on the first CALIBRATION training samples, with the weights as they are rounded now.

    Also returns, for each point, the first point that reads the same tensor.
    """
    ranges: Ranges = {}
    top = torch.tensor(2.0 ** run.recipe.quant.options["activation_bits"] - 1, device=run.device)
    unrounded = {layer for layer, owner in owners(run.module).items() if owner not in run.plan.rounded}
    with observed_ranges(run.module, ranges, top, unrounded) as first_reader:  # observes the inputs of modules
        plain(run.module)(used_weights(run), run.state.buffers, {}, run.examples.x[:CALIBRATION], False)
    return ranges, first_reader


@torch.no_grad()
def integers(run: Run) -> Quantized:
    """The integers, scales and ranges for the file of a finished run."""
    values, scales, params = {}, {}, run.plan.layout.split(run.state.params)
    for layer in run.plan.rounded:
        rounded_weight = rounded_layer(run.plan, layer, params, run.state.masks, run.hparams.quant)
        values[layer] = rounded_weight.integers.to(torch.int8).cpu().numpy()
        scales[layer] = rounded_weight.scale.flatten().float().cpu().numpy()
    activations = {
        point: (scale.item(), int(zero.item()), int(top.item()))
        for point, (scale, zero, top) in used_ranges(run).items()
    }
    bits = bits_of(run)
    return Quantized(values, scales, {layer: bits[layer] for layer in run.plan.rounded}, activations)
