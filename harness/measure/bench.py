"""The long protocol: several fresh processes, every run kept, ratios to a reference with intervals.

Each process loads all files, times them interleaved and yields one median per file. Ratios are computed turn by turn,
as in a search, because the machine's speed changes from one turn to the next; a process yields the median of its
ratios. Intervals are computed between processes (Student's t on logarithms), because a process's memory layout shifts
all of its runs together. A process is discarded and repeated if the machine was not quiet or the reference drifted.
When no retries are left, a disturbed process is kept and the result is marked ``unstable``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.measure.lab import Job, Lab, Session
from harness.measure.timing import block_medians, drift, p90
from harness.records import Measurement
from harness.stats.intervals import log_interval

PROCESSES = 5  # more narrow the interval and take longer
RETRIES = 3  # disturbed processes that are repeated, in total per bench
MAX_DRIFT = 0.02  # of the reference within a process; more counts as disturbed
MAX_HALF_WIDTH = 0.02  # of the interval, relative to the median; more counts as unstable


@dataclass(frozen=True)
class Timing:
    """The measured latency of one file. Times in ms, intervals at 95 %.

    p90_ms      an upper bound of the 90th percentile (MLPerf's early-stopping estimate)
    ratio       latency relative to the reference: the median over processes
    medians_ms  one per process;  ``samples``: number of timed runs in total
    reasons     why the verdict is ``unstable``; empty if it is ``ok``
    """

    job: Job
    p50_ms: float
    p50_interval: tuple[float, float]
    p90_ms: float | None
    ratio: float
    ratio_interval: tuple[float, float]
    load_ms: float
    samples: int
    medians_ms: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return "unstable" if self.reasons else "ok"


@dataclass(frozen=True)
class Bench:
    """All timings of one run of the protocol, and its raw sessions."""

    timings: list[Timing]
    sessions: list[Session]
    batch_size: int
    threads: int

    def measurements(self) -> list[Measurement]:
        """``latency_ms`` of each file; its values are the medians of the processes."""
        return [
            Measurement(
                name="latency_ms",
                unit="ms",
                values=t.medians_ms,
                conditions={
                    "runtime": t.job.runtime,
                    "options": self.sessions[0].options_of(i),
                    "batch_size": self.batch_size,
                    "threads": self.threads,
                    "load_ms": t.load_ms,
                    "core": self.sessions[0].core,
                    "host": self.sessions[0].host,
                    "cpu_model": self.sessions[0].cpu_model,
                    "p90_ms": t.p90_ms,
                    "interval_ms": list(t.p50_interval),
                    "samples": t.samples,
                    "verdict": t.verdict,
                    "complaints": t.reasons,
                },
            )
            for i, t in enumerate(self.timings)
        ]


def bench(
    jobs: Sequence[Job],
    reference: int = 0,
    batch_size: int = 1,
    threads: int = 1,
    seconds: float = 1.0,
    processes: int = PROCESSES,
    lab: Callable[[], Lab] = Lab,
) -> Bench:
    """Time ``jobs`` interleaved in ``processes`` fresh processes.

    Args:
        reference: index of the job that ratios refer to and that is checked for drift.
        seconds: timed seconds per file and process.
    Raises:
        TrialError: a file cannot be loaded or run.
    """
    sessions: list[Session] = []
    retries, disturbed = RETRIES, []
    while len(sessions) < processes:
        with lab() as one:
            session = one.session(jobs, batch_size, threads, seconds, max(1.0, seconds), seed=len(sessions))
        wrong = complaints(session, reference)
        if wrong and retries:
            retries -= 1
            continue
        disturbed += wrong
        sessions.append(session)
    return Bench(timings_of(jobs, sessions, reference, disturbed), sessions, batch_size, threads)


def complaints(session: Session, reference: int) -> list[str]:
    """Reasons to distrust a session; empty if there are none."""
    change = drift(block_medians(session.blocks)[reference])
    moved = [f"the reference drifted by {change:+.1%}"] if abs(change) > MAX_DRIFT else []
    return [*session.complaints, *moved]


def timings_of(jobs: Sequence[Job], sessions: list[Session], reference: int, disturbed: list[str]) -> list[Timing]:
    """Statistics of each job over the sessions; ``disturbed``: reasons to distrust all timings."""
    medians = [
        [statistics.median(run for block in session.blocks[i] for run in block) for session in sessions]
        for i in range(len(jobs))
    ]
    turns = [block_medians(session.blocks) for session in sessions]
    timings = []
    for i, job in enumerate(jobs):
        runs = [run for session in sessions for block in session.blocks[i] for run in block]
        ratios = [
            statistics.median(a / b for a, b in zip(session_medians[i], session_medians[reference], strict=True))
            for session_medians in turns
        ]
        low, high = log_interval(medians[i])
        middle = statistics.median(medians[i])
        wide = [] if (high - low) / 2 <= MAX_HALF_WIDTH * middle else [f"half-width {(high - low) / 2 / middle:.1%}"]
        timings.append(
            Timing(
                job=job,
                p50_ms=middle,
                p50_interval=(low, high),
                p90_ms=p90(runs),
                ratio=statistics.median(ratios),
                ratio_interval=log_interval(ratios),
                load_ms=statistics.median(session.load_ms[i] for session in sessions),
                samples=len(runs),
                medians_ms=medians[i],
                reasons=list(dict.fromkeys([*disturbed, *wide])),
            )
        )
    return timings
