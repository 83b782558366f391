"""Bytes, latency and load time of the Fashion convnet and resnet20, on onnxruntime and OpenVINO.

0 / 25 / 50 / 75 % of the channels are removed, at fp32 / int8 / 4 / 2 bits. A real trial exports every file for its
runtime (one epoch on random images, since size and speed do not depend on the training). All files of one student are
timed in one interleaved run. Ratios are relative to the unpruned fp32 student on onnxruntime. ``slower`` marks
files whose int8 version is slower than fp32 at the same width.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.recipe import parse_recipe
from harness.registries import REGISTRIES
from harness.trial.job import TrialJob

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import save
from harness.measure.bench import Timing, bench
from harness.measure.lab import Job
from harness.trial import run as trial

STUDENTS = {
    "fashion_convnet": ({"model": "convnet", "width": 32, "stages": 3}, (1, 28, 28)),
    "resnet20": ({"model": "resnet", "depth": 20, "width": 16}, (3, 32, 32)),
}
RATIOS, BITS, RUNTIMES = (0.0, 0.25, 0.5, 0.75), (32, 8, 4, 2), ("onnxruntime", "openvino")


def export_files(
    student: dict[str, Any],
    shape: tuple[int, ...],
    folder: Path,
    on: Sequence[str] = RUNTIMES,
    removed: Sequence[float] = RATIOS,
    widths: Sequence[int] = BITS,
) -> list[dict[str, Any]]:
    """Export one file for every runtime, ratio and number of bits."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 256), ("test", 64)):
        x, y = rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n) % 10
        np.savez(folder / f"{part}.npz", x=x, y=y)
    made = []
    for runtime, ratio, bits in itertools.product(on, removed, widths):
        recipe = {
            "task": {"name": "arrays", "train": str(folder / "train.npz"), "test": str(folder / "test.npz")},
            "student": student,
            "train": {"epochs": 1},
            "prune": {"kind": "channel", "ratio": ratio, "at": 0.0, "round_to": 4},
            "quant": {"bits": bits, "start": 0.0},
            "deploy": {"runtime": runtime},
        }
        place = folder / f"{runtime}-{ratio}-{bits}"
        record = trial.run(TrialJob(parse_recipe(recipe, REGISTRIES), 0, place))
        if record.status != "ok":
            raise SystemExit(f"{place.name}: {record.reason}")
        layers = record.diagnostics["audit"]["layers"]
        whole = f"{sum(layer['integer'] for layer in layers)} of {len(layers)}"
        made.append(
            {
                "runtime": runtime,
                "removed": ratio,
                "bits": bits,
                "integer_layers": whole,
                "size_bytes": record.artifact.size_bytes,
                "path": place / record.artifact.path,
            }
        )
    return made


def row(made: dict[str, Any], timing: Timing, fp32: Timing) -> dict[str, Any]:
    low, high = (timing.ratio_interval[i] / fp32.ratio for i in (0, 1))
    return {
        **{k: v for k, v in made.items() if k != "path"},
        "p50_ms": timing.p50_ms,
        "p50_interval_ms": timing.p50_interval,
        "p90_ms": timing.p90_ms,
        "ratio": timing.ratio,
        "ratio_interval": timing.ratio_interval,
        "load_ms": timing.load_ms,
        "verdict": timing.verdict,
        "reasons": timing.reasons,
        "slower": bool(made["bits"] < 32 and low > 1),
        "ratio_to_fp32_of_this_width": timing.ratio / fp32.ratio,
        "samples": timing.samples,
    }


def measure(student: dict[str, Any], shape: tuple[int, ...]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        made = export_files(student, shape, Path(folder))
        timings = bench([Job(m["path"], m["runtime"]) for m in made], seconds=0.3).timings
    fp32 = {(m["runtime"], m["removed"]): t for m, t in zip(made, timings, strict=True) if m["bits"] == 32}
    return [row(m, t, fp32[m["runtime"], m["removed"]]) for m, t in zip(made, timings, strict=True)]


def main() -> None:
    save("runtimes", {name: measure(student, shape) for name, (student, shape) in STUDENTS.items()})


if __name__ == "__main__":
    main()
