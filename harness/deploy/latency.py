"""The latency lab: one resident child process without torch that times files on their runtime.

The child is pinned to one core, warms every file up, then times short blocks of runs of all files
and of a reference in random order, so that a machine that slows down slows all of them. Raw block
values are kept. ``python -m harness.deploy.latency`` is the child: one JSON request a line on
standard input, one answer a line on standard output; it ends when its input is closed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, TrialError
from harness.records import Measurement

BLOCK_S = 0.001  # a block is at least so long: the clock and its call cost are lost in it
MIN_BLOCKS = 11  # of each file: enough for a 95 % interval of the median
MAX_DRIFT = 0.05  # of the reference, between the first and the last third of the session
MAX_HALF_WIDTH = 0.05  # of the interval, relative to the median


@dataclass(frozen=True)
class Target:
    """One file as something to call: ``run(i)`` does one inference on the i-th rotating input."""

    run: Callable[[int], Any]
    load_ms: float = 0.0


def time_blocks(
    targets: Sequence[Target], budget_s: float, seed: int = 0, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Milliseconds per run in every block, by target.

    Blocks of all targets alternate in random order until ``budget_s`` per target is used up and
    each has at least ``MIN_BLOCKS``.
    """
    counts = [_warm_up(t, budget_s, clock) for t in targets]
    blocks: list[list[float]] = [[] for _ in targets]
    order = random.Random(seed)
    started = clock()
    while len(blocks[0]) < MIN_BLOCKS or clock() - started < budget_s * len(targets):
        for i in order.sample(range(len(targets)), len(targets)):
            blocks[i].append(_block(targets[i], counts[i], clock))
    return blocks


def _block(target: Target, runs: int, clock: Callable[[], float]) -> float:
    """One untimed run brings the file's weights back into the cache; then ``runs`` timed ones."""
    target.run(0)
    started = clock()
    for i in range(runs):
        target.run(i)
    return (clock() - started) / runs * 1000


def _warm_up(target: Target, budget_s: float, clock: Callable[[], float]) -> int:
    """Run until two windows agree within 2 % (or a quarter of the budget is gone); runs per block."""
    started = clock()
    target.run(0)
    runs = max(1, round(BLOCK_S / max(clock() - started, 1e-9)))
    last = float("inf")
    while clock() - started < budget_s / 4:
        took = _block(target, runs, clock)
        runs = max(1, round(BLOCK_S * 1000 / max(took, 1e-6)))
        if abs(took - last) < 0.02 * last:
            break
        last = took
    return runs


def drift(values: Sequence[float]) -> float:
    """Relative change of the median from the first to the last third of a session."""
    third = max(1, len(values) // 3)
    first, last = statistics.median(values[:third]), statistics.median(values[-third:])
    return last / first - 1


def verdict(measured: Measurement, reference_drift: float) -> str:
    """``ok``, or ``unstable`` where the reference drifted or the interval is too wide."""
    low, high = measured.interval()
    narrow = (high - low) / 2 <= MAX_HALF_WIDTH * measured.median
    return "ok" if narrow and abs(reference_drift) <= MAX_DRIFT else "unstable"


class Lab:
    """The driver's handle on the child. Use as a context manager; one measurement at a time."""

    def __init__(self, core: int | None = None, timeout_s: float = 120.0):
        self._core, self._timeout_s = core, timeout_s
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child (it ends by itself when its input is closed)."""
        if self._child is None:
            return
        with contextlib.suppress(OSError):
            self._child.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
        try:
            self._child.wait(2)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child = None

    def measure(
        self,
        paths: Sequence[Path],
        reference: Path | None,
        runtime: str = "onnxruntime",
        batch_size: int = 1,
        threads: int = 1,
        budget_s: float = 0.25,
    ) -> list[Measurement]:
        """Time ``paths`` interleaved with each other and with ``reference``.

        Args:
            budget_s: timed seconds per file.
        Returns:
            ``latency_ms`` per path, values in ms per inference of ``batch_size`` samples, one per
            block; conditions hold the runtime, load time, drift and verdict.
        Raises:
            TrialError: a file cannot be loaded or run, or the child died twice or hung.
        """
        files = [*paths, *([reference] if reference is not None else [])]
        answer = self._ask(
            {
                "paths": [str(p) for p in files],
                "batch_size": batch_size,
                "threads": threads,
                "budget_s": budget_s,
                "runtime": runtime,
            }
        )
        if "error" in answer:
            raise TrialError(f"latency: {answer['error']}")
        change = drift(answer["blocks"][-1])
        found = []
        for values, load_ms in zip(answer["blocks"][: len(paths)], answer["load_ms"][: len(paths)], strict=True):
            conditions = {
                "runtime": runtime,
                "batch_size": batch_size,
                "threads": threads,
                "load_ms": load_ms,
                "core": answer["core"],
                "host": answer["host"],
                "cpu_model": answer["cpu_model"],
                "reference_drift": round(change, 4),
            }
            one = Measurement(name="latency_ms", unit="ms", values=values, conditions=conditions)
            found.append(one.model_copy(update={"conditions": {**conditions, "verdict": verdict(one, change)}}))
        return found

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        for _ in range(2):  # a child that died is replaced once
            child = self._start()
            try:
                child.stdin.write(json.dumps(request) + "\n")  # pyright: ignore[reportOptionalMemberAccess]
                child.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]
                ready, _, _ = select.select([child.stdout], [], [], self._timeout_s)  # pyright: ignore[reportArgumentType]
                line = child.stdout.readline() if ready else ""  # pyright: ignore[reportOptionalMemberAccess]
            except OSError:
                line = ""
            if line:
                return json.loads(line)
            child.kill()
            self.close()
        raise TrialError(f"latency: the measuring process died or gave no answer within {self._timeout_s:g} s, twice")

    def _start(self) -> subprocess.Popen[str]:
        if self._child is None or self._child.poll() is not None:
            core = [] if self._core is None else [str(self._core)]
            self._child = subprocess.Popen(
                [sys.executable, "-m", "harness.deploy.latency", *core],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )  # Ctrl-C is for the driver
        return self._child


def _load(path: Path, batch_size: int, threads: int) -> Target:
    import numpy as np

    from harness.deploy.runtimes import onnxruntime_session

    started = time.perf_counter()
    session = onnxruntime_session(path, threads)
    load_ms = (time.perf_counter() - started) * 1000
    [given] = session.get_inputs()
    shape = [batch_size, *given.shape[1:]]
    inputs = [{given.name: np.random.default_rng(i).random(shape, np.float32)} for i in range(16)]
    return Target(lambda i: session.run(None, inputs[i % 16]), load_ms)


def _answer(request: dict[str, Any], core: int | None) -> dict[str, Any]:
    from harness.deploy.runtimes import environment

    try:
        targets = [_load(Path(p), request["batch_size"], request["threads"]) for p in request["paths"]]
        gc.collect()
        gc.disable()
        blocks = time_blocks(targets, request["budget_s"])
    except (HarnessError, RuntimeError, ValueError) as error:
        return {"error": str(error)}
    finally:
        gc.enable()
    return {
        "blocks": blocks,
        "load_ms": [t.load_ms for t in targets],
        "core": core,
        **{k: environment()[k] for k in ("host", "cpu_model")},
    }


def main() -> None:
    """The child: pin to one core (the last allowed one, or the one given), answer until the input ends."""
    core: int | None = None
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        core = int(sys.argv[1]) if len(sys.argv) > 1 else allowed[-1]
    pinned = False
    for line in sys.stdin:
        request = json.loads(line)
        if core is not None and request["threads"] == 1 and not pinned:
            os.sched_setaffinity(0, {core})
            pinned = True
        print(json.dumps(_answer(request, core if pinned else None)), flush=True)


if __name__ == "__main__":
    main()
