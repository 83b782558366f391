"""Quantization points: the places where a network's activations become bytes.

A point is the input of a convolution, a linear layer or an average pool (named by the module's
path) or one of the two inputs of a residual sum (``<path>.0``, ``<path>.1``). The exporter writes a quantize /
dequantize pair at exactly these places, so that file and simulation are the same arithmetic.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from harness.models.add import Add
from harness.techniques import activations

AVERAGES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)

# point -> (scale, zero point, largest integer), 0-d each; what is absent is not rounded
Ranges = dict[str, tuple[Tensor, Tensor, Tensor]]


_FORWARDS = (nn.Conv2d.forward, nn.Linear.forward)


def is_weighted(module: nn.Module) -> bool:
    """A convolution or linear layer that computes as torch's own does, with a weight that is a parameter (and is not
    computed from others). ``nn.MultiheadAttention`` multiplies by its output layer's weight without calling that
    layer, so nothing can be known of what arrives there."""
    own = isinstance(module, nn.Conv2d | nn.Linear) and type(module).forward in _FORWARDS
    given = own and any(name == "weight" for name, _ in module.named_parameters(recurse=False))
    return given and not isinstance(module, NonDynamicallyQuantizableLinear)


def first_names(module: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> the first name of that tensor, by which training knows it; another
    one where tensors are tied or a module has two names."""
    first: dict[int, str] = {}
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def ties(module: nn.Module) -> dict[str, str]:
    """Every further name of a tensor that several modules hold -> its first name."""
    first, found = first_names(module), dict[str, str]()
    for path, m in module.named_modules():
        for own in (m.named_parameters, m.named_buffers):
            names = [f"{path}.{name}".lstrip(".") for name, _ in own(recurse=False, remove_duplicate=False)]
            found |= {name: first[name] for name in names if name != first[name]}
    return found


def owners(module: nn.Module) -> dict[str, str]:
    """Path of every convolution and linear layer -> path of the module that its weight belongs to: its own, or,
    where weights are tied, that of the first."""
    first = first_names(module)
    layers = [name for name, m in module.named_modules() if is_weighted(m)]
    return {name: first[f"{name}.weight".lstrip(".")].rpartition(".")[0] for name in layers}


def weighted_layers(module: nn.Module) -> list[str]:
    """Paths of the layers whose weights are quantized and pruned; of tied ones the first."""
    return [name for name, owner in owners(module).items() if name == owner]


def has_point(module: nn.Module) -> bool:
    """Does the file round what arrives at the module?"""
    return is_weighted(module) or isinstance(module, (*AVERAGES, Add))


def left_alone(module: nn.Module) -> dict[str, str]:
    """Path -> type of what has weights but is neither quantized nor pruned: it is exported as it is. Vectors, of
    norms say, are not named."""
    found, layers = dict[str, str](), owners(module)
    for name, m in module.named_modules():
        whole = isinstance(m, nn.MultiheadAttention) or not list(m.children())
        own = [f"{name}.{p}".lstrip(".") for p, values in m.named_parameters(recurse=False) if values.dim() > 1]
        compressed = layers.get(name) in layers  # its weight is its own or another layer's, not an embedding's
        if not own or compressed or any(name.startswith(f"{path}.") for path in found):
            continue
        found |= {name: type(m).__name__} if whole else dict.fromkeys(own, "Parameter")
    return found


def points_of(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Module path -> its quantization points, one per input."""
    one = {name: (name,) for name, m in module.named_modules() if has_point(m) and not isinstance(m, Add)}
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
def quantized_activations(module: nn.Module, ranges: Ranges) -> Iterator[None]:
    """Fake-quantize the activations at every point; no ranges leave the module as it is."""
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
def observed_ranges(module: nn.Module, ranges: Ranges, top: Tensor, without: Set[str]) -> Iterator[dict[str, str]]:
    """Fill ``ranges`` from the smallest and largest value that passes each point but those in
    ``without``; ``top``: the largest integer (0-d). Gives, for each point, the first of those that read
    the same tensor: several where a block's input goes on to its sum."""
    first_reader: dict[str, str] = {}
    tensors: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}  # id -> the tensor, its version, first reader

    ends: dict[str, tuple[Tensor, Tensor]] = {}

    def observe(point: str, x: Tensor) -> Tensor:
        if point in without:
            return x
        again = point in ends  # a layer may be called several times
        low, high = ends.get(point, (x.min(), x.max()))
        ends[point] = torch.minimum(low, x.min()), torch.maximum(high, x.max())
        ranges[point] = (*activations.integer_range(*ends[point], top), top)
        known, version, first = tensors.get(id(x), (lambda: None, 0, ""))
        same = known() is x and version == x._version  # not another tensor in its place, not changed since
        first_reader[point] = first if same and not again else point
        tensors[id(x)] = (weakref.ref(x), x._version, first_reader[point])
        return x

    with at_points(module, observe):
        yield first_reader
