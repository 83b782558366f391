"""Multilayer perceptron: flattened input, hidden layers with ReLU, a linear output."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


def mlp(input_shape: tuple[int, ...], classes: int, hidden: Sequence[int] = (128,)) -> nn.Module:
    """Linear layers ``fc1 .. fcN``; ``hidden=[300, 100]`` is LeNet-300-100 (LeCun et al. 1998)."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    sizes = [math.prod(input_shape), *hidden]
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False), start=1):
        parts[f"fc{i}"] = nn.Linear(inputs, outputs)
        parts[f"relu{i}"] = nn.ReLU()
    parts[f"fc{len(sizes)}"] = nn.Linear(sizes[-1], classes)
    return nn.Sequential(parts)
