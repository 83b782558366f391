"""Quantisation points: the places where a network's activations become bytes.

A point is the input of a convolution, a linear layer or an average pool (named by the module's
path) or one of the two inputs of a residual sum (``<path>.0``, ``<path>.1``). The exporter writes a quantise /
dequantise pair at exactly these places, so that file and simulation are the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from harness.models.add import Add
from harness.techniques import activations

READS_BYTES = (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.AdaptiveAvgPool2d)

# point -> (scale, zero point, largest integer), 0-d each; what is absent is not rounded
Ranges = dict[str, tuple[Tensor, Tensor, Tensor]]


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
    with at_points(module, lambda point, x: rounded_at(point, x, ranges)):
        yield


@contextmanager
def watched(module: nn.Module, watch: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """What arrives at the modules of ``watch`` (name -> path) while open, by name, before rounding."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _, inputs: seen.update({name: inputs[0]})

    handles = [module.get_submodule(path).register_forward_pre_hook(keep(name)) for name, path in watch.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def rounded_at(point: str, x: Tensor, ranges: Ranges) -> Tensor:
    """The activation that arrives at ``point``, as the file rounds it."""
    return activations.rounded(x, *ranges[point]) if point in ranges else x


@contextmanager
def observed_ranges(module: nn.Module, ranges: Ranges, top: Tensor) -> Iterator[None]:
    """Fill ``ranges`` from the smallest and largest value that passes each point; ``top``: the
    largest integer (0-d)."""

    def observe(point: str, x: Tensor) -> Tensor:
        ranges[point] = (*activations.integer_range(x.min(), x.max(), top), top)
        return x

    with at_points(module, observe):
        yield
