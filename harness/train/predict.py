"""Logits of a module on many samples, in torch: for the teacher, and to simulate a file."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from harness.tasks.data import Data
from harness.train.quantization_points import Ranges, quantized_activations
from harness.train.rounding import Quantized


def normalized(x: Tensor, data: Data) -> Tensor:
    """Raw x (N, ...) as float32, minus the training part's mean, divided by its standard deviation."""
    mean, std = broadcastable(data)
    return (x.float() - mean) / std


def broadcastable(data: Data) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation shaped to broadcast over (N, *input_shape)."""
    shape = (-1, *[1] * (len(data.input_shape) - 1)) if len(data.mean) > 1 else ()
    return torch.tensor(data.mean).reshape(shape), torch.tensor(data.std).reshape(shape)


@torch.no_grad()
def predict(module: nn.Module, x: Tensor, quantized: Quantized | None = None, batch: int = 512) -> np.ndarray:
    """Logits (N, C) of normalized x. With ``quantized``, activations are rounded as in the file."""
    device = next(module.parameters()).device
    points = {} if quantized is None else quantized.activations
    ranges: Ranges = {}
    for point, numbers in points.items():
        scale, zero, top = (torch.tensor(float(number), device=device) for number in numbers)
        ranges[point] = (scale, zero, top)
    module.eval()
    with quantized_activations(module, ranges):
        parts = [module(part.to(device)).cpu() for part in x.split(batch)]
    return torch.cat(parts).numpy()
