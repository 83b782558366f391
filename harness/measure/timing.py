"""Timing in blocks, warm-up, drift, percentiles, and a check that the machine was quiet. Needs no runtime."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

BLOCK_S = 0.001  # shortest block; much longer than a clock call takes
MIN_BLOCKS = 11  # of each file: enough for a 95 % interval of the median
ASK_EVERY = 24  # blocks of each file between two calls of `enough`, which takes time itself
WARM_UP_RUNS = 50  # fewest runs before timing
BUSY = 0.5  # share of the other cores' time in use, above which the machine is not quiet
STOLEN = 0.02  # share of the time taken by the hypervisor, above which the machine is not quiet


@dataclass(frozen=True)
class Target:
    """One file to time: ``run(i)`` does one inference on the i-th rotating input."""

    run: Callable[[int], Any]
    load_ms: float = 0.0


def time_blocks(
    targets: Sequence[Target],
    budget_s: float,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    warm_up_s: float | None = None,
    enough: Callable[[list[list[list[float]]]], bool] | None = None,
) -> list[list[list[float]]]:
    """Milliseconds of every run, by target and block.

    Blocks of all targets alternate in random order until ``budget_s`` per target is used up and
    each target has at least ``MIN_BLOCKS``, or until ``enough`` returns true for the blocks so far.

    Args:
        warm_up_s: longest warm-up of one target (default: a quarter of the budget).
    """
    counts = [_warm_up(t, budget_s / 4 if warm_up_s is None else warm_up_s, clock) for t in targets]
    blocks: list[list[list[float]]] = [[] for _ in targets]
    order = random.Random(seed)
    started = clock()
    while (turns := len(blocks[0])) < MIN_BLOCKS or clock() - started < budget_s * len(targets):
        if enough is not None and turns and turns % ASK_EVERY == 0 and enough(blocks):
            break
        for i in order.sample(range(len(targets)), len(targets)):
            blocks[i].append(_block(targets[i], counts[i], clock))
    return blocks


def _block(target: Target, runs: int, clock: Callable[[], float]) -> list[float]:
    """Milliseconds of ``runs`` runs, after one untimed run that loads the file's weights into the cache."""
    target.run(0)
    times = [clock()]
    for i in range(runs):
        target.run(i)
        times.append(clock())
    return [round(1000 * (b - a), 6) for a, b in zip(times, times[1:], strict=False)]  # whole nanoseconds


def _warm_up(target: Target, limit_s: float, clock: Callable[[], float]) -> int:
    """Run the target until it is warm; return the number of runs that fill a block.

    It is warm after at least ``WARM_UP_RUNS`` runs, when two blocks in a row agree within 1 %, or after ``limit_s``.
    """
    started, last, runs_done = clock(), math.inf, 0
    runs = 1
    while clock() - started < limit_s:
        took = statistics.median(_block(target, runs, clock))
        runs_done += runs
        runs = max(1, min(10_000, round(BLOCK_S * 1000 / max(took, 1e-6))))
        if runs_done >= WARM_UP_RUNS and abs(took - last) < 0.01 * last:
            break
        last = took
    return runs


def block_medians(blocks: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """The median of every block, by target."""
    return [[statistics.median(block) for block in target_blocks] for target_blocks in blocks]


def drift(values: Sequence[float]) -> float:
    """Relative change of the median from the first to the last third of a session."""
    third = max(1, len(values) // 3)
    first, last = statistics.median(values[:third]), statistics.median(values[-third:])
    return last / first - 1


def p90(values: Sequence[float]) -> float | None:
    """An upper bound of the 90th percentile that holds with confidence 0.99; None for fewer than 64 values.

    It is MLPerf's early-stopping estimate (LoadGen, single stream): of n values, t is the largest integer with
    P(Bin(n, 0.1) <= t) <= 0.01. The t - 1 largest values are discarded; the estimate is the largest of the rest.
    """
    n, p, total, t = len(values), 0.1, 0.0, -1
    log_term = n * math.log1p(-p)
    while t + 1 <= n:
        total += math.exp(log_term)
        if total > 0.01:
            break
        t += 1
        log_term += math.log(n - t) - math.log(t + 1) + math.log(p) - math.log1p(-p) if t < n else 0.0
    return None if t < 1 else sorted(values)[n - t]


class Quiet:
    """Context manager that records the other load of the machine. ``core``: the core of this process."""

    def __init__(self, core: int | None):
        self._core = core
        self.busy, self.stolen = 0.0, 0.0

    def __enter__(self) -> Quiet:
        self._before = _cpu_times()
        return self

    def __exit__(self, *_: object) -> None:
        shares = [_shares(a, b) for a, b in zip(self._before, _cpu_times(), strict=False)]
        others = [busy for core, (busy, _) in enumerate(shares) if core != self._core]
        self.busy = round(statistics.mean(others), 3) if others and self._core is not None else 0.0
        self.stolen = round(max((stolen for _, stolen in shares), default=0.0), 4)

    def complaints(self) -> list[str]:
        """Reasons to distrust a measurement made inside the context; empty if there are none."""
        reasons = [f"the other cores were {self.busy:.0%} busy"] if self.busy > BUSY else []
        return reasons + ([f"the hypervisor took {self.stolen:.1%} of the time"] if self.stolen > STOLEN else [])


def _cpu_times() -> list[Any]:
    """CPU times of each core; empty if psutil is not installed (on a device that only times files)."""
    try:
        import psutil
    except ImportError:
        return []
    return psutil.cpu_times(percpu=True)


def _shares(before: Any, after: Any) -> tuple[float, float]:
    """The busy share and the stolen share of the time between two readings of one core."""
    spent = {name: getattr(after, name) - getattr(before, name) for name in after._fields}
    spent = {name: max(0.0, s) for name, s in spent.items() if not name.startswith("guest")}  # part of user time
    total = sum(spent.values())
    if not total:
        return 0.0, 0.0
    idle = spent.get("idle", 0.0) + spent.get("iowait", 0.0)
    return 1 - idle / total, spent.get("steal", 0.0) / total
