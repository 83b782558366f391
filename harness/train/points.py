"""Quantisation points: the places where a network's activations become bytes.

A point is the input of a convolution, a linear layer or an average pool (named by the module's
path) or one of the two inputs of a residual sum (``<path>.0``, ``<path>.1``). The exporter writes a quantise /
dequantise pair at exactly these places, so that file and simulation are the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from harness.models.add import Add
from harness.techniques import quantize

READS_BYTES = (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.AdaptiveAvgPool2d)

Ranges = dict[str, tuple[Tensor, Tensor]]  # point -> (scale, zero point), 0-d each


def weighted_layers(module: nn.Module) -> list[str]:
    """Paths of the layers whose weights are quantised and pruned."""
    return [name for name, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def points_of(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Module path -> its quantisation points, one per input."""
    one = {name: (name,) for name, m in module.named_modules() if isinstance(m, READS_BYTES)}
    two = {name: (f"{name}.0", f"{name}.1") for name, m in module.named_modules() if isinstance(m, Add)}
    return {**one, **two}


@contextmanager
def at_points(module: nn.Module, act: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """While open, ``act(point, x)`` replaces every activation that arrives at a point."""

    def replacing(names: tuple[str, ...]) -> Callable[..., tuple[Tensor, ...]]:
        return lambda _, inputs: (*(act(n, x) for n, x in zip(names, inputs, strict=False)), *inputs[len(names) :])

    handles = [
        module.get_submodule(path).register_forward_pre_hook(replacing(names))
        for path, names in points_of(module).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def quantised_activations(module: nn.Module, ranges: Ranges) -> Iterator[None]:
    """Fake-quantise the activations at every point; no ranges leave the module as it is."""
    if not ranges:
        yield
        return
    with at_points(module, lambda point, x: quantize.activation(x, *ranges[point])):
        yield


@contextmanager
def observed_ranges(module: nn.Module, ranges: Ranges) -> Iterator[None]:
    """Fill ``ranges`` from the smallest and largest value that passes each point."""

    def observe(point: str, x: Tensor) -> Tensor:
        ranges[point] = quantize.byte_range(x.min(), x.max())
        return x

    with at_points(module, observe):
        yield
