"""The statistics of the lab: closed-form values and coverage, on clocks and samples of our own."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure import timing
from harness.measure.bench import complaints, timings_of
from harness.measure.lab import Job, Session
from harness.measure.timing import Quiet, p90
from harness.stats.intervals import log_interval


@pytest.mark.parametrize(("n", "discarded"), [(64, 0), (1000, 77)])
def test_p90_is_mlperfs_estimate_at_its_published_sizes(n: int, discarded: int) -> None:
    """64 values are the least for p90 at confidence 0.99 (t = 1), and 1000 give t = 78."""
    assert p90([float(v) for v in range(n)]) == n - 1 - discarded


def test_p90_claims_nothing_below_64_values() -> None:
    assert p90([1.0] * 63) is None


def test_p90_is_below_the_true_one_in_at_most_one_of_a_hundred() -> None:
    rng = np.random.default_rng(0)
    below = sum(p90(rng.random(400).tolist()) < 0.9 for _ in range(1000))
    assert below <= 20  # 1 % is 10, and 20 three deviations above


def test_the_interval_between_processes_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        low, high = log_interval(np.exp(rng.normal(0, 0.02, 5)).tolist())
        inside += low <= 1 <= high
    assert 0.935 <= inside / 2000 <= 0.965


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=9), st.floats(0.1, 10))
def test_the_interval_scales_with_its_values(values: list[float], factor: float) -> None:
    low, high = log_interval(values)
    scaled = log_interval([factor * v for v in values])
    assert scaled == pytest.approx((factor * low, factor * high), rel=1e-9)


def test_one_process_gives_no_interval() -> None:
    assert log_interval([3.0]) == (0.0, math.inf)


def times(user: float, idle: float, steal: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(_fields=("user", "idle", "steal"), user=user, idle=idle, steal=steal)


def test_a_busy_neighbor_and_a_greedy_hypervisor_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = [[times(0, 0), times(0, 0)], [times(10, 0), times(7, 3)]]
    monkeypatch.setattr(timing, "_cpu_times", lambda: readings.pop(0))
    with Quiet(core=0) as quiet:
        pass
    assert quiet.busy == pytest.approx(0.7) and "70% busy" in quiet.complaints()[0]
    readings[:] = [[times(0, 0), times(0, 0)], [times(9, 0, 1), times(1, 9)]]
    with Quiet(core=0) as quiet:
        pass
    assert quiet.busy == pytest.approx(0.1) and quiet.complaints() == ["the hypervisor took 10.0% of the time"]


def session(*medians: float, drifted: float = 0.0, **more: list[str]) -> Session:
    blocks = [[[m * (1 + drifted * (i > 8))] * 5 for i in range(12)] for m in medians]
    return Session(blocks, [1.0] * len(medians), 0, "h", "cpu", more.get("complaints", []))


def test_ratios_are_taken_within_a_process() -> None:
    """Processes twice as slow as each other still agree about the ratio."""
    sessions = [session(1.0 * s, 0.5 * s) for s in (1.0, 2.0, 1.5)]
    fp32, int8 = timings_of([Job("a"), Job("b")], sessions, 0, [])  # type: ignore[arg-type]
    assert int8.ratio == pytest.approx(0.5) and int8.ratio_interval == pytest.approx((0.5, 0.5))
    assert fp32.ratio == 1.0 and fp32.p50_ms == 1.5 and fp32.verdict == "unstable"  # between processes


def test_ratios_are_taken_within_a_turn() -> None:
    """Medians over all turns, 1 and 0.65 here, would compare a slow turn with a fast one."""
    speed = [1.0, 2.0, 1.0, 2.0, 1.0]
    noise = [1.0, 1.3, 1.3, 0.7, 1.0]
    blocks = [[[s] * 5 for s in speed], [[0.5 * s * n] * 5 for s, n in zip(speed, noise, strict=True)]]
    sessions = [Session(blocks, [1.0, 1.0], 0, "h", "cpu", [])] * 2
    assert timings_of([Job("a"), Job("b")], sessions, 0, [])[1].ratio == pytest.approx(0.5)  # type: ignore[arg-type]


def test_steady_processes_are_ok_and_a_drifting_reference_is_not() -> None:
    steady = [session(1.0, 0.5) for _ in range(5)]
    assert [t.verdict for t in timings_of([Job("a"), Job("b")], steady, 0, [])] == ["ok", "ok"]  # type: ignore[arg-type]
    assert complaints(steady[0], 0) == []
    assert complaints(session(1.0, drifted=0.1), 0) == ["the reference drifted by +10.0%"]
