"""The latency lab: a child process that times files on their runtime, and the class that controls it.

The child is pinned to one core and imports torch only for a torch runtime. It warms every file up, then times short
blocks of runs of all files in random order, the reference among them, so that a slowdown of the machine affects all
files alike. Only one lab at a time measures on a host.
``python -m harness.measure.lab FD`` starts the child. It reads one JSON request per line from the socket ``FD``,
answers with one line each, and ends when the socket is closed. Output of a runtime or a model, also from C, goes to
standard error, so it cannot mix with the answers.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import TrialError, reason_of
from harness.measure.timing import Quiet, Target, block_medians, drift, time_blocks
from harness.records import Measurement
from harness.stats.intervals import median_interval

MAX_DRIFT = 0.05  # of the reference, from the first to the last third of the session; more is unstable
MAX_HALF_WIDTH = 0.05  # of the interval, relative to the median; more is unstable
OTHERS_S = 600.0  # how long to wait for another lab on this host
PRECISE = 0.01  # half-width of an interval, relative to its median, at which `until_precise` ends the timing


@dataclass(frozen=True)
class Job:
    """A file to time and the runtime to time it on."""

    path: Path
    runtime: str = "onnxruntime"


@dataclass(frozen=True)
class Session:
    """What one process measured: for each job the milliseconds of its runs by block, its load time and the options of
    its runtime; and ``complaints`` about the machine."""

    blocks: list[list[list[float]]]
    load_ms: list[float]
    core: int | None
    host: str
    cpu_model: str
    complaints: list[str]
    options: list[dict[str, str]] = field(default_factory=list)

    def options_of(self, job: int) -> dict[str, str]:
        """The options of the job's runtime; empty if they were not recorded."""
        return self.options[job] if self.options else {}


def verdict(measured: Measurement, reference_drift: float, complaints: Sequence[str] = ()) -> str:
    """``unstable`` if the reference drifted, the interval is too wide or the machine was not quiet; else ``ok``."""
    low, high = measured.interval()
    narrow = (high - low) / 2 <= MAX_HALF_WIDTH * measured.median
    return "ok" if narrow and abs(reference_drift) <= MAX_DRIFT and not complaints else "unstable"


class Lab:
    """Controls the child process. Use it as a context manager, for one measurement at a time."""

    def __init__(self, core: int | None = None, timeout_s: float = 120.0):
        self._core, self._timeout_s = core, timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def __enter__(self) -> Lab:
        self._start()  # early, so that the child imports its runtime while the caller prepares
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child by closing its channel; kill it if it has not ended after 2 s."""
        if self._child is None:
            return
        if self._channel is not None:
            self._channel.close()
        try:
            self._child.wait(2)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child = self._channel = None

    def measure(
        self,
        paths: Sequence[Path],
        reference: Path | None,
        runtime: str = "onnxruntime",
        batch_size: int = 1,
        threads: int = 1,
        budget_s: float = 0.25,
        until_precise: bool = False,
    ) -> list[Measurement]:
        """Time ``paths`` interleaved with each other and with ``reference``.

        Args:
            budget_s: timed seconds per file.
            until_precise: end earlier, as soon as the half-width of every median's interval is within PRECISE.
        Returns:
            ``latency_ms`` per path: values in ms per inference of ``batch_size`` samples, one per block; conditions
            with the runtime, load time, drift and verdict. With a reference, every value is scaled to the
            reference's median ``reference_ms``, because the machine's speed changes from turn to turn;
            ``unscaled_ms`` is the median without scaling.
        Raises:
            TrialError: a file cannot be loaded or run, or the child died twice or hung.
        """
        jobs = [Job(p, runtime) for p in [*paths, *([reference] if reference is not None else [])]]
        session = self.session(jobs, batch_size, threads, budget_s, until_precise=until_precise)
        medians = block_medians(session.blocks)
        change = drift(medians[-1])
        measurements = []
        for i, (values, load_ms) in enumerate(zip(medians[: len(paths)], session.load_ms, strict=False)):
            conditions = {
                "runtime": runtime,
                "options": session.options_of(i),
                "batch_size": batch_size,
                "threads": threads,
                "load_ms": load_ms,
                "core": session.core,
                "host": session.host,
                "cpu_model": session.cpu_model,
                "reference_drift": round(change, 4),
            }
            if reference is not None:
                conditions |= {"reference_ms": statistics.median(medians[-1]), "unscaled_ms": statistics.median(values)}
                values = related(values, medians[-1])
            one = Measurement(name="latency_ms", unit="ms", values=values, conditions=conditions)
            judgement = {"verdict": verdict(one, change, session.complaints), "complaints": session.complaints}
            measurements.append(one.model_copy(update={"conditions": {**conditions, **judgement}}))
        return measurements

    def session(
        self,
        jobs: Sequence[Job],
        batch_size: int = 1,
        threads: int = 1,
        budget_s: float = 0.25,
        warm_up_s: float | None = None,
        seed: int = 0,
        until_precise: bool = False,
    ) -> Session:
        """Time ``jobs`` interleaved and keep every run.

        Raises:
            TrialError: a file cannot be loaded or run, or the child died twice or hung.
        """
        request = {
            "jobs": [[str(job.path), job.runtime] for job in jobs],
            "batch_size": batch_size,
            "threads": threads,
            "budget_s": budget_s,
            "warm_up_s": warm_up_s,
            "seed": seed,
            "until_precise": until_precise,
        }
        with alone_on_this_host():
            answer = self._ask(request, self._timeout_s + 3 * budget_s * len(jobs))
        if "error" in answer:
            raise TrialError(f"latency: {answer['error']}")
        return Session(**answer)

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        for _ in range(2):  # a child that died is replaced once
            child, channel = self._start()
            try:
                channel.settimeout(timeout_s)
                channel.sendall(json.dumps(request).encode() + b"\n")
                return json.loads(_line(channel, timeout_s))
            except OSError:
                child.kill()
                self.close()
        raise TrialError(f"latency: the measuring process died or gave no answer within {timeout_s:g} s, twice")

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self._child is None or self._channel is None or self._child.poll() is not None:
            self.close()
            core = [] if self._core is None else [str(self._core)]
            self._channel, theirs = socket.socketpair()
            with theirs:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "harness.measure.lab", str(theirs.fileno()), *core],
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )  # a new session, because Ctrl-C must reach only the driver
        return self._child, self._channel


def _line(channel: socket.socket, timeout_s: float) -> bytes:
    """The next line from ``channel``.

    Raises:
        OSError: the other side ended, or the line was not complete within ``timeout_s``.
    """
    deadline, got = time.monotonic() + timeout_s, b""
    while not got.endswith(b"\n"):
        channel.settimeout(max(deadline - time.monotonic(), 0.001))
        more = channel.recv(2**20)
        if not more:
            raise ConnectionError
        got += more
    return got


@contextlib.contextmanager
def alone_on_this_host() -> Iterator[None]:
    """Wait until no other lab of this user measures on this host, then hold the lock. The operating system releases
    the lock when its process ends.

    Raises:
        TrialError: another process held it for ``OTHERS_S`` seconds.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    path = Path(tempfile.gettempdir()) / f"harness-latency-{os.getuid()}.lock"
    deadline = time.monotonic() + OTHERS_S
    with open(path, "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    held = f"another process has measured on this host for {OTHERS_S:g} s and holds {path}"
                    raise TrialError(f"latency: {held}: end it") from None
            time.sleep(0.05)
        yield


def _load(path: Path, runtime: str, batch_size: int, threads: int) -> tuple[Target, dict[str, str]]:
    import numpy as np

    from harness.runtimes.base import load

    started = time.perf_counter()
    loaded = load(runtime, path, threads)
    load_ms = (time.perf_counter() - started) * 1000
    shape = (batch_size, *loaded.shape)
    inputs = [loaded.prepare(np.random.default_rng(i).random(shape, np.float32)) for i in range(16)]
    return Target(lambda i: loaded.run(inputs[i % 16]), load_ms), loaded.options


def related(values: Sequence[float], beside: Sequence[float]) -> list[float]:
    """``values`` scaled by the machine's speed: each is multiplied by the median of ``beside`` over the value of
    ``beside`` that was timed in the same turn."""
    usual = statistics.median(beside)
    return [value * usual / now for value, now in zip(values, beside, strict=True)]


def precise(blocks: Sequence[Sequence[Sequence[float]]]) -> bool:
    """Whether every file's median, scaled by the last file (:func:`related`), is known within PRECISE."""
    medians = block_medians(blocks)
    values = [related(file_medians, medians[-1]) for file_medians in medians[:-1]] or medians
    spans = [(median_interval(file_medians), statistics.median(file_medians)) for file_medians in values]
    return all(high - low <= 2 * PRECISE * middle for (low, high), middle in spans)


def _answer(request: dict[str, Any], core: int | None) -> dict[str, Any]:
    from harness.machine.host import environment

    try:
        size, threads = request["batch_size"], request["threads"]
        loaded = [_load(Path(path), runtime, size, threads) for path, runtime in request["jobs"]]
        targets, options = [target for target, _ in loaded], [file_options for _, file_options in loaded]
        gc.collect()
        gc.disable()
        with Quiet(core) as quiet:
            blocks = time_blocks(
                targets,
                request["budget_s"],
                request["seed"],
                warm_up_s=request["warm_up_s"],
                enough=precise if request["until_precise"] else None,
            )
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: the child must still answer
        return {"error": reason_of(error)}
    finally:
        gc.enable()
    return {
        "blocks": blocks,
        "load_ms": [t.load_ms for t in targets],
        "core": core,
        "complaints": quiet.complaints(),
        "options": options,
        **{k: environment()[k] for k in ("host", "cpu_model")},
    }


def main() -> None:
    """Run the child: pin it to one core (the given one, or the last allowed), and answer until the channel ends."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)  # a process that a runtime starts must not keep it open
    core: int | None = None
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        core = int(sys.argv[2]) if len(sys.argv) > 2 else allowed[-1]
    pinned = False
    with contextlib.suppress(ImportError):  # import the usual runtime before the first request
        import onnxruntime  # noqa: F401
    for line in channel.makefile():
        request = json.loads(line)
        if core is not None and request["threads"] == 1 and not pinned:
            os.sched_setaffinity(0, {core})
            pinned = True
        channel.sendall(json.dumps(_answer(request, core if pinned else None)).encode() + b"\n")


if __name__ == "__main__":
    main()
