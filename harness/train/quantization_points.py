"""Quantization points: the places where a network's activations are quantized.

A point is the input of a convolution, a linear layer or an average pool (named by the module's path), or one of the two
inputs of a residual sum (``<path>.0``, ``<path>.1``). The exporter writes a quantize/dequantize pair at exactly these
places, so file and simulation compute the same.
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

# point -> (scale, zero point, largest integer), 0-d each; points that are absent are not rounded
Ranges = dict[str, tuple[Tensor, Tensor, Tensor]]


_FORWARDS = (nn.Conv2d.forward, nn.Linear.forward)


def is_weighted(module: nn.Module) -> bool:
    """Whether the module is a convolution or linear layer with torch's own forward, and its weight is a parameter (not
    computed from others).

    The output layer of ``nn.MultiheadAttention`` is excluded: the attention uses its weight without calling the layer,
    so its input cannot be observed.
    """
    uses_torch_forward = isinstance(module, nn.Conv2d | nn.Linear) and type(module).forward in _FORWARDS
    has_weight = uses_torch_forward and any(name == "weight" for name, _ in module.named_parameters(recurse=False))
    return has_weight and not isinstance(module, NonDynamicallyQuantizableLinear)


def first_names(module: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> the first name of that tensor, which training uses. The two differ if
    tensors are tied or a module has two names."""
    first: dict[int, str] = {}
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def ties(module: nn.Module) -> dict[str, str]:
    """For tensors that several modules share: every further name -> the first name."""
    first, tied = first_names(module), dict[str, str]()
    for path, m in module.named_modules():
        for named_tensors in (m.named_parameters, m.named_buffers):
            names = [f"{path}.{name}".lstrip(".") for name, _ in named_tensors(recurse=False, remove_duplicate=False)]
            tied |= {name: first[name] for name in names if name != first[name]}
    return tied


def owners(module: nn.Module) -> dict[str, str]:
    """Path of every convolution and linear layer -> path of the module that owns its weight: the layer itself or, if
    weights are tied, the first of them."""
    first = first_names(module)
    layers = [name for name, m in module.named_modules() if is_weighted(m)]
    return {name: first[f"{name}.weight".lstrip(".")].rpartition(".")[0] for name in layers}


def weighted_layers(module: nn.Module) -> list[str]:
    """Paths of the layers whose weights are quantized and pruned; of layers with tied weights, the first."""
    return [name for name, owner in owners(module).items() if name == owner]


def has_point(module: nn.Module) -> bool:
    """Whether the file quantizes the module's input."""
    return is_weighted(module) or isinstance(module, (*AVERAGES, Add))


def left_alone(module: nn.Module) -> dict[str, str]:
    """Path -> type of the modules with weights that are neither quantized nor pruned, but exported as they are.
    Modules whose parameters are all vectors, such as norms, are left out."""
    untouched, layers = dict[str, str](), owners(module)
    for name, m in module.named_modules():
        whole = isinstance(m, nn.MultiheadAttention) or not list(m.children())
        parameters = [f"{name}.{p}".lstrip(".") for p, values in m.named_parameters(recurse=False) if values.dim() > 1]
        compressed = layers.get(name) in layers  # not if its weight is tied to an embedding
        if not parameters or compressed or any(name.startswith(f"{path}.") for path in untouched):
            continue
        untouched |= {name: type(m).__name__} if whole else dict.fromkeys(parameters, "Parameter")
    return untouched


def points_of(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """The quantization points of each module, by its path: one point for each of its inputs."""
    one = {name: (name,) for name, m in module.named_modules() if has_point(m) and not isinstance(m, Add)}
    two = {name: (f"{name}.0", f"{name}.1") for name, m in module.named_modules() if isinstance(m, Add)}
    return {**one, **two}


@contextmanager
def at_points(module: nn.Module, act: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Within this context ``act(point, x)`` replaces the input x at every point."""

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
    """Fake-quantize the activations at every point that has a range."""
    if not ranges:
        yield
        return
    with at_points(module, lambda point, x: rounded_at(point, x, ranges)):
        yield


@contextmanager
def watched(module: nn.Module, watch: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """Record the inputs, before rounding, of the modules in ``watch`` (name -> path); yields name -> input."""
    first_inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _, inputs: first_inputs.update({name: inputs[0]})

    handles = [module.get_submodule(path).register_forward_pre_hook(keep(name)) for name, path in watch.items()]
    try:
        yield first_inputs
    finally:
        for handle in handles:
            handle.remove()


def rounded_at(point: str, x: Tensor, ranges: Ranges) -> Tensor:
    """The input x of ``point``, rounded as in the file."""
    return activations.rounded(x, *ranges[point]) if point in ranges else x


@contextmanager
def observed_ranges(module: nn.Module, ranges: Ranges, top: Tensor, without: Set[str]) -> Iterator[dict[str, str]]:
    """Fill ``ranges`` from the smallest and largest value at each point.

    Args:
        ranges: filled in place.
        top: the largest integer, 0-d.
        without: points that are not observed.
    Yields:
        For each point, the first point that reads the same tensor. Several points share one if, for example, a block's
        input is also an input of its residual sum.
    """
    first_reader: dict[str, str] = {}
    tensors: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}  # id -> the tensor, its version, first reader

    ends: dict[str, tuple[Tensor, Tensor]] = {}

    def observe(point: str, x: Tensor) -> Tensor:
        if point in without:
            return x
        called_before = point in ends  # a layer may be called several times
        low, high = ends.get(point, (x.min(), x.max()))
        ends[point] = torch.minimum(low, x.min()), torch.maximum(high, x.max())
        ranges[point] = (*activations.integer_range(*ends[point], top), top)
        recorded, version, first = tensors.get(id(x), (lambda: None, 0, ""))
        same = recorded() is x and version == x._version  # the same object, not changed in place since
        first_reader[point] = first if same and not called_before else point
        tensors[id(x)] = (weakref.ref(x), x._version, first_reader[point])
        return x

    with at_points(module, observe):
        yield first_reader
