"""Students per hour of one core (or GPU): K side by side, beside the leanest hand-written loop.

The loop is plain PyTorch without a DataLoader: tensors in memory, ``torch.optim.SGD(foreach=True)``,
``clip_grad_norm_(foreach=True)``, Hinton's distillation with cached logits; nothing can be left out.
A student is EPOCHS epochs; one epoch is timed, all contenders in turn in every round, medians over
rounds. ``form`` is what the engine chose by itself; ratios are to the loop of the same round.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.report import save, spread
from harness.models.build import build_model
from harness.recipe import Recipe, parse_recipe
from harness.registries import REGISTRIES
from harness.train import lanes
from harness.train.fit import advance
from harness.train.memory import keep_memory
from harness.train.schedule import begin

ROUNDS, EPOCHS, BATCH = 7, 20, 64
DIGITS, FASHION, CIFAR = ((1, 8, 8), 1078), ((1, 28, 28), 1024), ((3, 32, 32), 2048)
FAMILIES: dict[str, tuple[dict[str, Any], Any, tuple[int, ...]]] = {
    "digits mlp 64-64-10": ({"model": "mlp", "hidden": [64]}, DIGITS, (1, 2, 4, 8, 16, 32, 64)),
    "digits convnet 16": ({"model": "convnet", "width": 16, "stages": 2}, DIGITS, (1, 2, 4, 8, 16, 32, 64)),
    "fashion convnet 16": ({"model": "convnet", "width": 16, "stages": 3}, FASHION, (1, 4, 16)),
}
ON_GPU = {"cifar10 resnet20": ({"model": "resnet", "depth": 20, "width": 16}, CIFAR, (1, 2, 4, 8, 16, 32))}


def recipe_of(student: dict[str, Any], seed: int) -> Recipe:
    return parse_recipe(
        {
            "task": {"name": "digits"},
            "teacher": {"model": "mlp"},
            "student": student,
            "train": {"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.05},
            "clip": {"kind": "norm", "threshold": 1.0},
            "distill": {"kind": "logits", "weight": 0.5, "temperature": 2.0},
            "seed": seed,
        },
        REGISTRIES,
    )


def loop(module: nn.Module, data: lanes.Examples) -> None:
    """One epoch as lean as PyTorch allows."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, foreach=True)
    order = torch.randperm(len(data.y), device=data.y.device)
    for i in range(len(data.y) // BATCH):
        x, y, teacher = data.batch(order[i * BATCH : (i + 1) * BATCH])
        optimizer.zero_grad(set_to_none=True)
        logits = module(x)
        soft = F.kl_div(
            F.log_softmax(logits / 2, 1),
            F.log_softmax(teacher["logits"] / 2, 1),
            reduction="batchmean",
            log_target=True,
        )
        (0.5 * F.cross_entropy(logits, y) + 0.5 * 4 * soft).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0, foreach=True)
        optimizer.step()


def seconds(work: Callable[[], Any], device: str) -> float:
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def family(student: dict[str, Any], data: Any, widths: tuple[int, ...], device: str) -> dict[str, Any]:
    shape, n = data
    examples = lanes.Examples(
        torch.randn(n, *shape, device=device),
        torch.randint(0, 10, (n,), device=device),
        {"logits": torch.randn(n, 10, device=device)},
    )

    def build(seed: int) -> nn.Module:
        return build_model(recipe_of(student, seed).student, shape, 10, seed).to(device).train()

    module = build(0)
    contenders: dict[str, tuple[int, Callable[[], Any]]] = {"leanest loop": (1, lambda: loop(module, examples))}
    for k in widths:
        runs = [begin(recipe_of(student, seed), build(seed), examples) for seed in range(k)]
        contenders[f"{k} lanes"] = (k, lambda runs=runs: advance(runs, 1))
    for _, work in contenders.values():  # warm: the engine measures its forms here
        work()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, (k, work) in contenders.items():
            times[name].append(seconds(work, device) / k)
    base = times["leanest loop"]
    chosen = {str(key[1][0]): form for key, form in lanes._FASTEST.items() if key[2] == str(module)}
    return {
        name: {
            "students_an_hour": 3600 / (statistics.median(t) * EPOCHS),
            "ratio_to_loop": spread([b / own for b, own in zip(base, t, strict=True)]),
            "form": chosen.get(name.split()[0], "alone"),
        }
        for name, t in times.items()
    }


def main() -> None:
    device = "cuda" if torch.cuda.is_available() and "--cpu" not in sys.argv else "cpu"
    torch.set_num_threads(1)
    if device == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    keep_memory()
    families = {**FAMILIES, **(ON_GPU if device == "cuda" else {})}
    found = {name: family(*spec, device) for name, spec in families.items()}
    save(f"lanes_{device}", {"device": device, "rounds": ROUNDS, "epochs_a_student": EPOCHS, **found})


if __name__ == "__main__":
    main()
