"""Membership of a front under measurement noise, estimated by random draws, and the result of a confirmation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.measure.bench import Timing
from harness.records import DIRECTIONS, TrialRecord
from harness.search.study import excess
from harness.space.space import Space
from harness.stats.pareto import nondominated
from harness.verify.confirmation import Confirmed, Point, Splits
from harness.verify.seeds import half_widths

DRAWS = 4000  # the standard error of a probability near 0.95 is then 0.003
SURE = 0.95  # a member is "sure" from this probability on, "possible" from 1 - SURE on


@dataclass(frozen=True)
class Noisy:
    """Noisy quantities of N points: means and standard deviations, (N, M) each."""

    mean: np.ndarray
    sd: np.ndarray
    logged: np.ndarray  # (M,) whether a column's noise is relative
    timed: np.ndarray  # (N,) equal for points that share one timing, whose latencies have the same error

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        noise = rng.normal(size=self.mean.shape)
        _, group = np.unique(self.timed, return_inverse=True)
        noise[:, self.logged] = rng.normal(size=(len(self.mean), int(self.logged.sum())))[group]
        noise *= self.sd
        return np.where(self.logged, self.mean * np.exp(noise), self.mean + noise)


def membership(points: Noisy, directions: Sequence[Any], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Probability (N,) that each point is on the front: its share of ``draws`` random draws of all points."""
    rng = np.random.default_rng(seed)
    count = np.zeros(len(points.mean))
    for _ in range(draws):
        count += nondominated(points.draw(rng), directions)
    return count / draws


def likely(space: Space, records: Mapping[int, TrialRecord], bound: float, most: int) -> list[int]:
    """Numbers of the feasible points whose probability of being on the front is above ``bound``, at most ``most``.

    Noise: binomial for accuracy, the measured interval for latency; sizes are exact.
    """
    numbers = [n for n, r in records.items() if all(v <= 0 for v in excess(space, r).values())]
    names = [o.name for o in space.objectives]
    mean = np.array([[records[n].value(name) for name in names] for n in numbers], float)
    sd = np.array([[_search_noise(records[n], name) for name in names] for n in numbers])
    timed = np.array([records[n].structure for n in numbers])
    points = Noisy(mean, sd, np.array([name == "latency_ms" for name in names]), timed)
    probability = membership(points, [o.direction for o in space.objectives])
    order = np.argsort(-probability, kind="stable")
    return sorted(numbers[i] for i in order[:most] if probability[i] > bound)


def _search_noise(record: TrialRecord, name: str) -> float:
    measured = record.measurements[name]
    if name == "accuracy" or (name not in DIRECTIONS and 0 <= measured.median <= 1):  # about binomial
        n = int(measured.conditions.get("n", 1))
        share = min(max(measured.median, 0.5 / n), 1 - 0.5 / n)
        return math.sqrt(share * (1 - share) / n)
    if name == "latency_ms":
        low, high = measured.interval()
        return max(math.log(high / low) / (2 * 1.96), 0.005) if low > 0 else 0.02
    return 0.0


def confirmed(
    space: Space,
    records: Mapping[int, TrialRecord],
    chosen: list[int],
    runs: Mapping[int, list[TrialRecord]],
    timings: Mapping[int, Timing],
) -> Confirmed:
    """The chosen points with their new values: members are decided by the new trainings' validation accuracies; test
    values are only reported."""
    tests = np.array([[r.diagnostics["test"]["accuracy"] for r in runs[n]] for n in chosen])
    validations = np.array([[r.value("accuracy") for r in runs[n]] for n in chosen], float)
    n_test = float(runs[chosen[0]][0].diagnostics["test"]["n"])
    around = half_widths(validations, float(runs[chosen[0]][0].measurements["accuracy"].conditions["n"]))
    around_test = half_widths(tests, n_test)
    names = [o.name for o in space.objectives]
    metrics = [name for name in names if name not in DIRECTIONS]
    mean = np.array(
        [[_value(name, validations[i].mean(), runs[n], timings[n]) for name in names] for i, n in enumerate(chosen)]
    )
    errors = {name: pooled_error([[r.value(name) or 0.0 for r in runs[n]] for n in chosen]) for name in metrics}
    error = around / (1.96 * math.sqrt(2))  # of one mean; `around` is for the difference of two
    sd = np.array(
        [[errors.get(name, _noise(name, error[i], timings[n])) for name in names] for i, n in enumerate(chosen)]
    )
    timed = np.array([str(timings[n].job.path) for n in chosen])
    points = Noisy(mean, sd, np.array([name == "latency_ms" for name in names]), timed)
    probability = membership(points, [o.direction for o in space.objectives])
    rows: list[Point] = []
    for i, number in enumerate(chosen):
        timing, record = timings[number], records[number]
        rows.append(
            {
                "trial": number,
                "probability": round(float(probability[i]), 4),
                "member": _in_words(probability[i]),
                "validation_accuracy": float(validations[i].mean()),
                "validation_interval": _interval(float(validations[i].mean()), float(around[i])),
                "test_accuracy": float(tests[i].mean()),
                "test_interval": _interval(float(tests[i].mean()), float(around_test[i])),
                "size_bytes": float(np.median([r.value("size_bytes") or 0.0 for r in runs[number]])),
                "latency_ms": timing.p50_ms,
                "latency_interval_ms": list(timing.p50_interval),
                "latency_ratio": timing.ratio,
                "latency_verdict": timing.verdict,
                "metrics": {name: _both_splits(name, runs[number]) for name in metrics},
                "promised": {name: record.value(name) for name in ("accuracy", "size_bytes", "latency_ms", *metrics)},
            }
        )
    return {"points": rows, "test_n": n_test}


def _in_words(probability: float) -> Literal["sure", "possible", "no"]:
    return "sure" if probability >= SURE else "possible" if probability >= 1 - SURE else "no"


def _interval(mean: float, half: float) -> list[float]:
    return [max(0.0, mean - half), min(1.0, mean + half)]


def pooled_error(values: Sequence[Sequence[float]]) -> float:
    """Standard error of the mean of a task's metric over new trainings, from values (N, k > 1) of N points.

    The variance between the k trainings of a point is averaged over the points.
    """
    trainings = np.asarray(values, float)
    return float(np.sqrt(trainings.var(axis=1, ddof=1).mean() / trainings.shape[1]))


def _mean(name: str, runs: list[TrialRecord]) -> float:
    """Mean of a task's metric on validation; every finished trial has a value."""
    return float(np.mean([v for r in runs if (v := r.value(name)) is not None]))


def _both_splits(name: str, runs: list[TrialRecord]) -> Splits:
    """Means of a task's metric over new trainings, on validation and on test."""
    return {
        "validation": _mean(name, runs),
        "test": float(np.mean([r.diagnostics["test"][name] for r in runs])),
    }


def _value(name: str, accuracy: float, runs: list[TrialRecord], timing: Timing) -> float:
    if name == "accuracy":
        return accuracy
    if name == "latency_ms":
        return timing.p50_ms
    if name not in DIRECTIONS:
        return _mean(name, runs)
    return float(np.median([r.value(name) or 0.0 for r in runs]))


def _noise(name: str, accuracy_sd: float, timing: Timing) -> float:
    if name == "accuracy":
        return accuracy_sd
    if name == "latency_ms":
        low, high = timing.ratio_interval  # of the ratio: a slowdown of all files does not change their order
        return math.log(high / low) / (2 * 1.96) if low > 0 and math.isfinite(high) else 0.02
    return 0.0
