"""Repeatability of the latency of one file.

Seven runs of the long protocol (that of ``harness bench``) on a quiet machine are interleaved with
seven runs during which every core except the lab's is kept busy. Claims. Quiet: at least 6 verdicts ``ok``,
half-width <= 2 %, medians within 2 % of each other. Loaded: in 7 of 7 runs the median is within 2 % of the quiet
one or the verdict is ``unstable``.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import save
from benchmarks.runtimes import STUDENTS, export_files
from harness.measure.bench import MAX_HALF_WIDTH, Timing, bench
from harness.measure.lab import Job

RUNS, WITHIN = 7, 0.02


@contextlib.contextmanager
def busy_cores(lab_core: int) -> Iterator[list[int]]:
    """Keep every allowed core except ``lab_core`` busy."""
    others = sorted(os.sched_getaffinity(0) - {lab_core})
    code = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: sum(i * i for i in range(10**6))"
    running = [subprocess.Popen([sys.executable, "-c", code, str(core)]) for core in others]
    try:
        yield others
    finally:
        for process in running:
            process.kill()
            process.wait()


def row(timing: Timing) -> dict[str, Any]:
    low, high = timing.p50_interval
    return {
        "p50_ms": timing.p50_ms,
        "half_width": (high - low) / 2 / timing.p50_ms,
        "verdict": timing.verdict,
        "reasons": timing.reasons,
        "samples": timing.samples,
    }


def judge(quiet: list[dict[str, Any]], loaded: list[dict[str, Any]]) -> dict[str, Any]:
    trusted = [r for r in quiet if r["verdict"] == "ok"]
    medians = [r["p50_ms"] for r in trusted]
    middle = statistics.median(medians or [r["p50_ms"] for r in quiet])
    honest = [abs(r["p50_ms"] / middle - 1) <= WITHIN or r["verdict"] == "unstable" for r in loaded]
    return {
        "quiet_ok": f"{len(trusted)} of {len(quiet)}",
        "quiet_spread_of_medians": max(medians) / min(medians) - 1 if medians else None,
        "quiet_widest_half_width": max(r["half_width"] for r in trusted) if trusted else None,
        "loaded_within_or_unstable": f"{sum(honest)} of {len(loaded)}",
        "rule": f"medians of ok runs within {WITHIN:.0%}, half-width <= {MAX_HALF_WIDTH:.0%}",
    }


def main() -> None:
    core = sorted(os.sched_getaffinity(0))[-1]  # the lab's choice
    with tempfile.TemporaryDirectory() as folder:
        student, shape = STUDENTS["fashion_convnet"]
        [made] = export_files(student, shape, Path(folder), ("onnxruntime",), (0.0,), (8,))
        quiet, loaded, busy = [], [], 0
        for _ in range(RUNS):
            quiet.append(row(bench([Job(made["path"])]).timings[0]))
            with busy_cores(core) as others:
                loaded.append(row(bench([Job(made["path"])]).timings[0]))
                busy = others
    made = {**made, "path": made["path"].name}
    verdicts = judge(quiet, loaded)
    save("repeatability", {"file": made, **verdicts, "busy_cores": busy, "quiet": quiet, "loaded": loaded})


if __name__ == "__main__":
    main()
