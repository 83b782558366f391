"""Channels last and bfloat16: time of a student's step, and the effect on accuracy.

One epoch of a single student is timed in turn: the engine in float32, the engine in bfloat16, and the leanest
hand-written loop of ``lanes`` (channels first). Times are medians over rounds, ratios are within a round. Then students
train on 6,000 images of Fashion-MNIST in both precisions from the same seeds, and validation accuracies are compared.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.lanes import CIFAR, DIGITS, FASHION, loop, recipe_of, seconds
from benchmarks.report import ROOT, save, spread
from harness.models.build import build_model
from harness.recipe import Recipe
from harness.space.space import load_space
from harness.stats.intervals import mean_interval
from harness.train.evaluate import accuracy
from harness.train.fit import advance
from harness.train.lanes import Examples
from harness.train.memory import keep_memory
from harness.train.schedule import begin
from harness.train.student import Run
from harness.trial.score import data_of, normalized_part

ROUNDS, SEEDS = 9, 5
STUDENTS: dict[str, tuple[dict[str, Any], Any]] = {
    "digits convnet 16": ({"model": "convnet", "width": 16, "stages": 2}, DIGITS),
    "fashion convnet 8": ({"model": "convnet", "width": 8, "stages": 3}, FASHION),
    "fashion convnet 16": ({"model": "convnet", "width": 16, "stages": 3}, FASHION),
    "fashion convnet 32": ({"model": "convnet", "width": 32, "stages": 3}, FASHION),
    "cifar10 resnet20": ({"model": "resnet", "depth": 20, "width": 16}, CIFAR),
}
PRECISIONS = ("float32", "bfloat16")


def in_precision(recipe: Recipe, precision: str) -> Recipe:
    return replace(recipe, train=replace(recipe.train, precision=precision))


def timed(student: dict[str, Any], data: Any, device: str) -> dict[str, Any]:
    shape, n = data
    examples = Examples(
        torch.randn(n, *shape, device=device),
        torch.randint(0, 10, (n,), device=device),
        {"logits": torch.randn(n, 10, device=device)},
    )
    recipe = recipe_of(student, 0)
    runs = {
        p: begin(in_precision(recipe, p), build_model(recipe.student, shape, 10, 0).to(device), examples)
        for p in PRECISIONS
    }
    module = build_model(recipe.student, shape, 10, 0).to(device).train()
    works: dict[str, Callable[[], Any]] = {p: lambda run=run: advance([run], 1) for p, run in runs.items()}
    works["leanest loop, float32"] = lambda: loop(module, examples)
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(ROUNDS + 1):  # the first is a warm-up
        for name, work in works.items():
            times[name] += [seconds(work, device)] if turn else []
    steps = n // recipe.train.batch_size
    return {
        name: {
            "ms_a_step": 1000 * statistics.median(own) / steps,
            "times_as_fast_as_float32": spread([a / b for a, b in zip(times["float32"], own, strict=True)]),
        }
        for name, own in times.items()
    }


def learned(device: str) -> dict[str, Any]:
    """Validation accuracy of the trained widest student, and the difference between the precisions for each seed."""
    student = "student={model: convnet, width: 32, stages: 3}"
    overrides = ["task.train_limit=6000", student, "distill={kind: none}"]
    space = load_space(ROOT / "search_spaces" / "fashion_convnet.yaml", overrides=overrides)
    plain = next(b.params for b in space.baselines() if b.params is not None)
    recipe = space.fill(plain)
    data = data_of(recipe)
    x, y = normalized_part(recipe, "train", device)
    held = normalized_part(recipe, "validation", device)
    found: dict[str, list[float]] = {p: [] for p in PRECISIONS}
    for seed in range(SEEDS):
        for p in PRECISIONS:
            module = build_model(recipe.student, data.input_shape, data.classes, seed).to(device)
            started = begin(in_precision(replace(recipe, seed=seed), p), module, Examples(x, y))
            [run] = advance([started], recipe.train.epochs)
            assert isinstance(run, Run)
            found[p].append(accuracy(run, *held))
    pairs = zip(*(found[p] for p in PRECISIONS), strict=True)
    return {
        **found,
        "validation_samples": len(held[1]),
        "float32_minus_bfloat16": mean_interval([a - b for a, b in pairs]),
    }


def main() -> None:
    device = "cuda" if torch.cuda.is_available() and "--cpu" not in sys.argv else "cpu"
    torch.set_num_threads(1)
    keep_memory()
    found = {name: timed(*spec, device) for name, spec in STUDENTS.items()}
    save(
        f"precision_{device}",
        {"device": device, "rounds": ROUNDS, **found, "fashion convnet 32 learns": learned(device)},
    )


if __name__ == "__main__":
    main()
