"""One case of every registered method, and runs of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness.models.build import build_model
from harness.recipe import Recipe, parse_recipe
from harness.registries import REGISTRIES
from harness.train.features import PER_SAMPLE, quantity
from harness.train.lanes import Examples
from harness.train.schedule import begin
from harness.train.student import Run

SHAPE, MEAN, STD, CLASSES = (1, 8, 8), (0.5,), (2.0,), 4
EPOCHS = 3
STUDENTS: dict[str, dict[str, Any]] = {"mlp": {"hidden": [24, 16]}, "convnet": {"width": 8, "stages": 2}}
DEPTHWISE = "tests.methods:depthwise"
OTHERS: dict[str, dict[str, Any]] = {"resnet": {"depth": 8, "width": 8}, DEPTHWISE: {}}
MANY: dict[tuple[str, str], dict[str, Any]] = {
    ("clip", "none"): {},
    ("clip", "norm"): {"threshold": 0.5},
    ("clip", "value"): {"threshold": 0.02},
    ("clip", "agc"): {"threshold": 0.05},
    ("clip", "auto"): {"percentile": 40},
    ("clip", "weight_range"): {"threshold": 0.1},
    ("distill", "none"): {},
    ("distill", "logits"): {"weight": 0.5, "schedule": "linear"},
    ("distill", "labels"): {"weight": 0.5},
    ("distill", "dkd"): {"weight": 0.5},
    ("distill", "copy"): {"weight": 0.7, "from_teacher": True, "start": 0.4},
    ("distill", "hint"): {"weight": 0.3},
    ("distill", "attention"): {"weight": 0.5},
    ("distill", "jacobian"): {"weight": 0.3},
    ("distill", "gradient"): {"weight": 0.3, "threshold": 0.01},
    ("distill", "parameter"): {"weight": 0.3, "from_teacher": True},
    ("prune", "none"): {},
    ("prune", "channel"): {"ratio": 0.5},
    ("prune", "weight"): {"ratio": 0.7},
    ("prune", "rollback"): {"ratio": 0.5, "tolerance": 0.2, "step": 0.25},
    ("quant", "uniform"): {"bits": 4, "range": "mse"},
    ("quant", "lsq"): {"bits": 3, "activations": "pact"},
    ("quant", "dorefa"): {"bits": 2},
    ("quant", "standardized"): {"bits": 5, "activation_bits": 4},
    ("quant", "power_of_two"): {"bits": 3},
    ("quant", "pact"): {"bits": 4},
}


def depthwise(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        deep = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        point = nn.Conv2d(inputs, outputs, 1, bias=False)
        return [deep, nn.BatchNorm2d(inputs), nn.ReLU(), point, nn.BatchNorm2d(outputs), nn.ReLU()]

    stem = [nn.Conv2d(input_shape[0], 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    ending = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes)]
    return nn.Sequential(*stem, *block(8, 12), *block(12, 16), *ending)


def recipe_of(model: str, section: str, kind: str, options: dict[str, Any], seed: int = 0) -> Recipe:
    student = {"model": model, **(STUDENTS | OTHERS)[model]}
    tree = {
        "task": {"name": "digits"},
        "teacher": student,
        "student": student,
        "train": {"epochs": EPOCHS, "batch_size": 16, "lr": 0.05 + 0.02 * seed},
        "prune": {"kind": "channel", "ratio": 0.3},  # what others keep beside the network is cut with it
        "quant": {"bits": 6},
        "seed": seed,
        section: {"kind": kind, **options},
    }
    return parse_recipe(tree, REGISTRIES)


def begun(recipe: Recipe) -> Run:
    """A run before its first epoch, on noise; its teacher is an untrained network of the student's shape."""
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(64, *SHAPE, generator=g), torch.randint(0, CLASSES, (64,), generator=g)
    needs = REGISTRIES.distills[recipe.distill.name].needs
    teacher = build_model(recipe.student, SHAPE, CLASSES, 99)
    found = {name: quantity(name, teacher, x, y) for name in PER_SAMPLE if name in needs}
    parameters = {n: p.detach() for n, p in teacher.named_parameters()} if "parameters" in needs else {}
    module = build_model(recipe.student, SHAPE, CLASSES, recipe.seed)
    return begin(recipe, module, Examples(x, y, found), parameters)
