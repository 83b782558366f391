"""Turn a recipe's choice of a method into a callable: text options are bound, numeric options become tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from harness.errors import SpaceError
from harness.methods import Method, nearest
from harness.recipe import Selected
from harness.train.forward import Tensors
from harness.train.step import Bound


def bound(selected: Selected, methods: Mapping[str, Method]) -> Bound:
    """The method with its text and boolean options bound. Its numbers are arguments of every call."""
    method = methods[selected.name]
    words = {name: selected.options[name] for name, param in method.params.items() if param.type in (str, bool)}
    return Bound(method.load(), tuple(words.items()))


def numbers(selected: Selected, methods: Mapping[str, Method], device: torch.device) -> Tensors:
    """The method's numeric options as 0-d tensors. Of an option with values by layer, the default."""
    tensors = {}
    for name, param in methods[selected.name].params.items():
        if param.type in (float, int):
            value = selected.options[name]
            tensors[name] = torch.tensor(
                float(value["default"] if isinstance(value, Mapping) else value), device=device
            )
    return tensors


def by_layer(path: str, value: Any, layers: Sequence[str]) -> dict[str, Any]:
    """The value of each layer: the same for all, or from a mapping (keys: ``default``, ``first``, ``last``, paths).

    Raises:
        SpaceError: the mapping names a layer that the network does not have.
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(layers, value)
    for name in value:
        if name not in (*layers, "default", "first", "last"):
            raise SpaceError(f"{path}.{name}", "is not a layer", remedy=nearest(name, ["first", "last", *layers]))
    ends = {name: value[end] for name, end in ((layers[0], "first"), (layers[-1], "last")) if end in value}
    return {layer: value.get(layer, ends.get(layer, value["default"])) for layer in layers}
