"""Variance of accuracy between training seeds, per point, shrunk towards a trend.

    log E[s^2]  =  a + b * log(p * (1 - p) / n)        s^2 of a point's k trainings, p their mean
    s~^2        =  (d0 * s0^2 + d * s^2) / (d0 + d)    d = k - 1; s0^2 the trend at the point

Three trainings estimate a point's own variance poorly, and one common variance fits no point: weak points vary
several times as much as good ones. Each variance is therefore shrunk towards the variance of points of similar
accuracy. Its weight d0 is estimated from the scatter around the trend (Smyth 2004, Linear models and empirical Bayes
methods, sections 4 and 6.2; a trend in the prior: Law et al. 2014). Then difference / s~ has Student's t distribution
with d0 + d degrees of freedom.

All trainings are evaluated on the same samples, so the variance is that over seeds, given these samples.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import polygamma, psi

from harness.stats.intervals import t_95

MOST_PRIOR = 5.0  # upper bound of d0: from a few dozen points its estimate is often infinite where it is 4
TREND_FROM = 6  # fewer points than this get one common level instead of a trend


def half_widths(values: np.ndarray, n: float) -> np.ndarray:
    """Half-width (N,) of intervals that contain the mean of another k trainings of a point in 95 of 100 cases.

    values  (N, k) accuracies of single trainings on the same ``n`` samples
    The difference of two such means has the deviation s~ * sqrt(2 / k). With k = 1 no variance between trainings can
    be estimated; the binomial variance on ``n`` samples is used instead.
    """
    k = values.shape[1]
    if k == 1:
        return 1.96 * np.sqrt(2 * _binomial(values[:, 0], n))
    variance, degrees = moderated(values, n)
    return t_95(degrees) * np.sqrt(variance * 2 / k)


def moderated(values: np.ndarray, n: float) -> tuple[np.ndarray, float]:
    """The shrunk variance (N,) between single trainings of each point (N, k > 1), and its degrees of freedom.

    It is at least n**-2, the square of the change in accuracy when one sample's class changes.
    """
    points, k = values.shape
    d = k - 1
    variances = values.var(axis=1, ddof=1) + 1 / (12 * n**2)  # plus the variance of rounding to multiples of 1/n
    log_bias = float(psi(d / 2)) - math.log(d / 2)  # E[log s^2] - log sigma^2, as s^2 / sigma^2 is chi^2 / d
    logs = np.log(variances) - log_bias
    level, parameters = _trend(np.log(_binomial(values.mean(axis=1), n)), logs)
    scatter = float(np.square(logs - level).sum()) / max(points - parameters, 1) - _trigamma(d / 2)
    prior = _prior_degrees(scatter)
    trend = np.exp(level + float(psi(prior / 2)) - math.log(prior / 2))
    variance = (prior * trend + d * variances) / (prior + d)
    return np.maximum(variance, n**-2.0), min(prior + d, float(points * d))


def _binomial(share: np.ndarray, n: float) -> np.ndarray:
    inside = np.clip(share, 0.5 / n, 1 - 0.5 / n)
    return inside * (1 - inside) / n


def _trend(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, int]:
    """The least squares line's value at each x (N,), and its number of parameters."""
    apart = x - x.mean()
    if len(x) < TREND_FROM or apart @ apart < 1e-9:
        return np.full(len(y), y.mean()), 1
    return y.mean() + apart * float(apart @ y) / float(apart @ apart), 2


def _prior_degrees(scatter: float) -> float:
    """d0, the solution of trigamma(d0 / 2) = ``scatter``, at most MOST_PRIOR.

    ``scatter`` is the variance of the log variances around the trend, minus the part due to estimation.
    """
    if scatter <= _trigamma(MOST_PRIOR / 2):
        return MOST_PRIOR
    low, high = 1e-3, MOST_PRIOR
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _trigamma(middle / 2) > scatter else (low, middle)
    return low


def _trigamma(x: float) -> float:
    return float(polygamma(1, x))
