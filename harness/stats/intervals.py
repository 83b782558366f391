"""95 % intervals: Student's t for means, order statistics for medians."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def t_95(degrees: float) -> float:
    """The two-sided 95 % quantile of Student's t for ``degrees`` of freedom, rounded down to a whole number; infinite
    below 1."""
    # Imported here because it takes half a second, and few commands need it.
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    return math.inf if degrees < 1 else float(stdtrit(int(degrees), 0.975))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % interval; the ends are infinite for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    half = t_95(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median by order statistics (David and Nagaraja, Order Statistics, 3rd ed.,
    7.1); for fewer than 6 values, their range."""
    ordered, n = sorted(values), len(values)
    half = 0.98 * n**0.5  # normal approximation of Bin(n, 1/2): 1.96 * sqrt(n) / 2
    low, high = int(n / 2 - half), int(n / 2 + half + 1)
    return ordered[max(low, 0)], ordered[min(high, n - 1)]


def log_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the geometric mean of positive values from independent processes, by Student's t on
    their logarithms; (0, infinity) for a single value."""
    if len(values) < 2:
        return 0.0, math.inf
    _, low, high = mean_interval([math.log(v) for v in values])
    return math.exp(low), math.exp(high)


def difference_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Mean difference of two groups and the ends of its 95 % interval (Welch); the ends are infinite if a
    group has a single value."""
    mean = statistics.fmean(ours) - statistics.fmean(theirs)
    if min(len(ours), len(theirs)) < 2:
        return mean, -math.inf, math.inf
    parts = [statistics.variance(v) / len(v) for v in (ours, theirs)]
    total = sum(parts)
    if total == 0:
        return mean, mean, mean
    degrees = total**2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (ours, theirs), strict=True))
    half = t_95(degrees) * math.sqrt(total)
    return mean, mean - half, mean + half
