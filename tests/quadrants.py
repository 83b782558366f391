"""A task that a small network learns in a few epochs: the bright quadrant of an image."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness.recipe import Recipe, parse_recipe
from harness.registries import REGISTRIES
from harness.train.fit import Trained
from harness.train.lanes import Examples
from harness.train.predict import predict


def recipe(**sections: Any) -> Recipe:
    tree = {
        "task": {"name": "digits"},
        "student": {"model": "convnet", "width": 8},
        "train": {"epochs": 6, "batch_size": 32, "lr": 0.1},
        **sections,
    }
    return parse_recipe(tree, REGISTRIES)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


def examples(teacher: bool = False) -> Examples:
    """Four classes by the bright quadrant of a 6x6 image: learnable in a few epochs."""
    g = torch.Generator().manual_seed(5)
    y = torch.randint(0, 4, (256,), generator=g)
    x = 0.3 * torch.randn(256, 1, 6, 6, generator=g)
    for i, label in enumerate(y.tolist()):
        row, column = 3 * (label // 2), 3 * (label % 2)
        x[i, 0, row : row + 3, column : column + 3] += 1
    return Examples(x, y, {"logits": 5 * torch.eye(4)[y]} if teacher else {})


def accuracy(trained: Trained, data: Examples) -> float:
    return float((predict(trained.module, data.x, trained.quantized).argmax(1) == data.y.numpy()).mean())
