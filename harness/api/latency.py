"""Timing of files, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.measure import bench as protocol
from harness.measure.lab import Job


def bench(
    files: Sequence[str | Path],
    runtimes: Sequence[str] = ("onnxruntime",),
    batch_size: int = 1,
    threads: int = 1,
    seconds: float = 1.0,
    processes: int = protocol.PROCESSES,
) -> protocol.Bench:
    """Time files, interleaved, on each runtime. The first file on the first runtime is the reference of the ratios.

    Args:
        files: ONNX or packed files; their inputs have one shape, apart from the batch.
        runtimes: names of runtimes, ``onnxruntime`` or ``openvino``, or ``package.module:function``.
        seconds: timed per file and process.
        processes: fresh processes; the intervals are computed between them. At least 2.
    """
    jobs = [Job(Path(path), name) for name in runtimes for path in files]
    return protocol.bench(jobs, 0, batch_size, threads, seconds, processes)
