"""Time the files beside this script on this device: ``python device_bench.py``.

Needs Python >= 3.10, numpy and onnxruntime. If psutil is installed, it is used to check whether the
machine was quiet. Writes results.json, which ``harness bench --import results.json`` reads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROBE = "probe.onnx"
SESSION = HERE / "session.json"  # what one process measured


def files() -> list[Path]:
    """The models to time."""
    return [path for path in sorted(HERE.glob("*.onnx")) if path.name != PROBE]


def session(seconds: float, threads: int, batch_size: int, seed: int) -> dict:
    """One process: load every file, warm up, time them interleaved."""
    sys.path.insert(0, str(HERE))
    import numpy as np
    import onnx_session  # pyright: ignore[reportMissingImports]  # the copies beside this script
    import timing

    core = pin() if threads == 1 else None
    targets = []
    options = onnx_session.exact((HERE / PROBE).read_bytes())
    for path in files():
        started = time.perf_counter()
        loaded = onnx_session.open_session(path.read_bytes(), options, threads)
        took = (time.perf_counter() - started) * 1000
        model_input = loaded.get_inputs()[0]
        shape = [batch_size, *model_input.shape[1:]]
        feeds = [{model_input.name: np.random.default_rng(i).random(shape, np.float32)} for i in range(16)]
        targets.append(timing.Target(partial(run, loaded, feeds), took))
    with timing.Quiet(core) as quiet:
        blocks = timing.time_blocks(targets, seconds, seed, warm_up_s=max(1.0, seconds))
    return {
        "blocks": blocks,
        "load_ms": [t.load_ms for t in targets],
        "core": core,
        "host": platform.node(),
        "cpu_model": cpu_model(),
        "complaints": quiet.complaints(),
        "options": [options] * len(targets),
    }


def run(loaded, feeds: list, i: int):
    """One inference on the i-th rotating input."""
    return loaded.run(None, feeds[i % len(feeds)])


def pin() -> int | None:
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model", "Hardware"))]
    return named[0] if named else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="timed per file and process")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        measured = session(arguments.seconds, arguments.threads, arguments.batch_size, arguments.one)
        SESSION.write_text(json.dumps(measured))  # a file, not stdout: a runtime may print there
        return
    import onnxruntime

    sessions = []
    for seed in range(arguments.processes):
        command = [sys.executable, __file__, "--one", str(seed), "--seconds", str(arguments.seconds),
                   "--threads", str(arguments.threads), "--batch-size", str(arguments.batch_size)]  # fmt: skip
        subprocess.run(command, stdout=sys.stderr, check=True)
        sessions.append(json.loads(SESSION.read_text()))
        SESSION.unlink()
        print(f"process {seed + 1} of {arguments.processes}", file=sys.stderr)
    timed = files()
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in timed]
    names = json.loads((HERE / "files.json").read_text())
    out = {
        "files": [{**names[p.name], "measured_sha256": d} for p, d in zip(timed, digests, strict=True)],
        "runtime": "onnxruntime",
        "runtime_version": onnxruntime.__version__,
        "machine": platform.machine(),
        "batch_size": arguments.batch_size,
        "threads": arguments.threads,
        "sessions": sessions,
    }
    (HERE / "results.json").write_text(json.dumps(out))
    print(f"written: {HERE / 'results.json'}", file=sys.stderr)


if __name__ == "__main__":
    main()
