"""Students per hour of one core (or GPU): K lanes side by side, against the leanest hand-written loop.

The loop is plain PyTorch without a DataLoader: tensors in memory, ``torch.optim.SGD(foreach=True)``,
``clip_grad_norm_(foreach=True)``, Hinton's distillation with cached logits. It has no part that could be omitted.
A student trains EPOCHS epochs. One epoch is timed, with all contenders in turn in every round; results are medians
over rounds. ``form`` is the form that the engine chose. Ratios are relative to the loop in the same round. On a CPU
everything first runs on one core; then one process per core runs at the same time, with the loop and with lanes.
"""

from __future__ import annotations

import multiprocessing
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
ON_EVERY_CORE = {"digits mlp 64-64-10": 32, "digits convnet 16": 16, "fashion convnet 16": 4}  # lanes
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
    """One epoch of the leanest loop in PyTorch."""
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


Contenders = dict[str, tuple[int, Callable[[], Any]]]  # name -> students that it trains at once, one epoch of them


def contenders(spec: Any, device: str) -> tuple[Contenders, nn.Module]:
    student, (shape, n), widths = spec
    examples = lanes.Examples(
        torch.randn(n, *shape, device=device),
        torch.randint(0, 10, (n,), device=device),
        {"logits": torch.randn(n, 10, device=device)},
    )

    def build(seed: int) -> nn.Module:
        return build_model(recipe_of(student, seed).student, shape, 10, seed).to(device).train()

    module = build(0)
    found: Contenders = {"leanest loop": (1, lambda: loop(module, examples))}
    for k in widths:
        runs = [begin(recipe_of(student, seed), build(seed), examples) for seed in range(k)]
        found[f"{k} lanes"] = (k, lambda runs=runs: advance(runs, 1))
    for _, work in found.values():  # warm-up, in which the engine measures its forms
        work()
    return found, module


def family(spec: Any, device: str) -> dict[str, Any]:
    own, module = contenders(spec, device)
    times: dict[str, list[float]] = {name: [] for name in own}
    for _ in range(ROUNDS):
        for name, (k, work) in own.items():
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


def on_one_core(core: int, name: str, several: int, together: Any, answers: Any) -> None:
    """Seconds of a student's epoch with the loop and with lanes. Runs in its own process; every round starts at
    the same time as in the other processes."""
    prepare({core})
    student, data, _ = FAMILIES[name]
    own, _ = contenders((student, data, (several,)), "cpu")
    times: dict[str, list[float]] = {n: [] for n in own}
    for _ in range(ROUNDS):
        for n, (k, work) in own.items():
            together.wait()
            times[n].append(seconds(work, "cpu") / k)
    answers.put(times)


def on_every_core(name: str, several: int, cores: list[int]) -> dict[str, Any]:
    """Students per hour of the whole machine, with one process per core."""
    spawn = multiprocessing.get_context("spawn")
    together, answers = spawn.Barrier(len(cores)), spawn.Queue()
    processes = [spawn.Process(target=on_one_core, args=(c, name, several, together, answers)) for c in cores]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    rates = {n: [sum(1 / t[n][i] for t in found) for i in range(ROUNDS)] for n in found[0]}  # student-epochs a second
    return {
        n: {
            "students_an_hour": 3600 * statistics.median(r) / EPOCHS,
            "ratio_to_loop": spread([own / b for own, b in zip(r, rates["leanest loop"], strict=True)]),
        }
        for n, r in rates.items()
    } | {"processes": len(cores)}


def prepare(cores: set[int]) -> None:
    torch.set_num_threads(1)
    os.sched_setaffinity(0, cores)
    keep_memory()


def main() -> None:
    device = "cuda" if torch.cuda.is_available() and "--cpu" not in sys.argv else "cpu"
    cores = sorted(os.sched_getaffinity(0))
    families = {**FAMILIES, **(ON_GPU if device == "cuda" else {})}
    prepare({cores[-1]} if device == "cpu" else set(cores))
    found = {name: family(spec, device) for name, spec in families.items()}
    if device == "cpu":
        every = {name: on_every_core(name, k, cores) for name, k in ON_EVERY_CORE.items()}
        found["one process per core"] = every
    save(f"lanes_{device}", {"device": device, "rounds": ROUNDS, "epochs_a_student": EPOCHS, **found})


if __name__ == "__main__":
    main()
