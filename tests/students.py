"""Small students of every model family after a short training on noise, for the tests of their files."""

from __future__ import annotations

import numpy as np
import torch

from harness.models.build import build_model
from harness.recipe import parse_recipe
from harness.registries import REGISTRIES
from harness.train.fit import Trained, fit
from harness.train.lanes import Examples

SHAPE, MEAN, STD = (1, 16, 16), (0.5,), (2.0,)
STUDENTS = {
    "mlp": {"hidden": [48, 32]},
    "lenet5": {"width": 0.5},
    "convnet": {"width": 24},  # a file under some 4 KB is all graph: nothing narrower to be had
    "resnet": {"depth": 8, "width": 8},
}
PRUNES = {"channel": {"kind": "channel", "ratio": 0.4}, "weight": {"kind": "weight", "ratio": 0.8}}


def examples() -> Examples:
    g = torch.Generator().manual_seed(0)
    return Examples(torch.randn(96, *SHAPE, generator=g), torch.randint(0, 10, (96,), generator=g))


def trained_student(model: str, bits: int, prune: str) -> Trained:
    recipe = parse_recipe(
        {
            "task": {"name": "digits"},
            "student": {"model": model, **STUDENTS[model]},
            "prune": PRUNES[prune],
            "quant": {"bits": bits},
            "train": {"epochs": 3, "batch_size": 32, "lr": 0.05},
        },
        REGISTRIES,
    )
    return fit(recipe, build_model(recipe.student, SHAPE, 10, 0), examples())


def raw(x: torch.Tensor) -> np.ndarray:
    """Samples as the file takes them, before they are normalized."""
    return (x * STD[0] + MEAN[0]).numpy()
