"""Students that draw random numbers while they train, each from another generator of the process."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn


class Stochastic(nn.Module):
    """Leaves its branch out by Python's coin: stochastic depth."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and random.random() < 0.5 else x + self.branch(x)


class TorchNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.3 * torch.rand(x.shape) if self.training else x


class NumpyNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.3 * float(np.random.normal()) if self.training else x


def _mlp(input_shape: tuple[int, ...], classes: int, drawing: nn.Module) -> nn.Module:
    inputs = int(np.prod(input_shape))
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.ReLU(), drawing, nn.Linear(16, classes))


def dropout(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _mlp(input_shape, classes, nn.Dropout(0.5))


def depth(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _mlp(input_shape, classes, Stochastic(16))


def torch_noise(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _mlp(input_shape, classes, TorchNoise())


def numpy_noise(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _mlp(input_shape, classes, NumpyNoise())


def numpy_start(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Draws nothing while it trains, but its first weights are numpy's."""
    module = _mlp(input_shape, classes, nn.Identity())
    with torch.no_grad():
        module[1].weight.copy_(torch.from_numpy(0.1 * np.random.standard_normal(module[1].weight.shape)))
    return module


def task() -> dict[str, np.ndarray]:
    """Two classes of noise around two means, drawn without a seed of its own."""
    y = np.arange(240) % 2
    x = (np.random.standard_normal((240, 1, 4, 4)) + y[:, None, None, None]).astype(np.float32)
    return {"x_train": x[:160], "y_train": y[:160], "x_test": x[160:], "y_test": y[160:]}
