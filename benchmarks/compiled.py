"""torch.compile for lanes: time to compile against time saved per step.

It times the forward and backward pass of lanes side by side (the ``stacked`` form), eager and compiled, on one
core; the rest of a step is the same in both. Every structure is compiled without the disk cache, after the compiler
itself was loaded once. ``steps_to_pay`` is the number of steps of all lanes together after which the saved time equals
the time to compile.
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
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from benchmarks.lanes import BATCH, FAMILIES, prepare, recipe_of
from benchmarks.report import save, spread
from harness.models.build import build_model
from harness.train import lanes
from harness.train.schedule import begin

LANES, ROUNDS = 16, 15
NAMES = ("digits mlp 64-64-10", "digits convnet 16")


Loss = Callable[[Tensor], tuple[Tensor, Any]]


def passes(spec: Any) -> tuple[Loss, Tensor]:
    """The loss of LANES students side by side (and their new buffers) as a function of their
    parameters, and these parameters."""
    student, (shape, n), _ = spec
    examples = lanes.Examples(torch.randn(n, *shape), torch.randint(0, 10, (n,)), {"logits": torch.randn(n, 10)})
    recipes = [recipe_of(student, seed) for seed in range(LANES)]
    runs = [begin(r, build_model(r.student, shape, 10, r.seed).train(), examples) for r in recipes]
    plan, state, _ = lanes._side_by_side([lanes.Student(r.module, r.plan, r.state, r.hparams) for r in runs], "stacked")
    x = examples.batch(torch.stack([torch.randperm(n)[:BATCH] for _ in runs]))[0]

    def loss(params: Tensor) -> tuple[Tensor, Any]:
        seen, buffers = plan.forward(plan.layout.split(params), state.buffers, {}, x, True)
        return seen["logits"].square().mean(), buffers

    return loss, state.params


def milliseconds(loss: Loss, params: Tensor) -> float:
    started = time.perf_counter()
    leaf = params.detach().requires_grad_()
    torch.autograd.grad(loss(leaf)[0], leaf)
    return 1e3 * (time.perf_counter() - started)


def family(spec: Any) -> dict[str, Any]:
    eager, params = passes(spec)
    milliseconds(eager, params)
    compiled = torch.compile(eager, fullgraph=True)
    seconds = milliseconds(compiled, params) / 1e3
    pairs = [(milliseconds(eager, params), milliseconds(compiled, params)) for _ in range(ROUNDS + 3)][3:]
    saved = statistics.median(e for e, _ in pairs) - statistics.median(c for _, c in pairs)
    return {
        "eager_ms": spread([e for e, _ in pairs]),
        "compiled_ms": spread([c for _, c in pairs]),
        "ratio": spread([e / c for e, c in pairs]),
        "compile_s": seconds,
        "steps_to_pay": round(1e3 * seconds / saved) if saved > 0 else None,
    }


def main() -> None:
    prepare({max(os.sched_getaffinity(0))})
    loaded = milliseconds(torch.compile(lambda x: (x.sin().sum(), None)), torch.zeros(4)) / 1e3
    found = {name: family(FAMILIES[name]) for name in NAMES}
    save("compiled_cpu", {"lanes": LANES, "rounds": ROUNDS, "loading_the_compiler_s": loaded, **found})


if __name__ == "__main__":
    main()
