"""Predict a trial's final accuracy from the first part of its curve: a Gaussian process on finished trials.

    k = LEVEL + IN_Z z z' + IN_U u u' + exp(-(|u - u'|**2 / (D width**2) + (z - z')**2 / WIDTH_Z**2) / 2)

z  logit of the accuracy reached so far, minus its mean
u  the trial's D parameters, scaled to [0, 1], minus 0.5
The output is the logit of the final accuracy. The kernel sums a linear term in z (hardly penalized), a linear term in
u, and a squared exponential: trials with a similar start and similar parameters end similarly. That distinguishes a
slow start with a small learning rate from a slow start with two bits. Rasmussen and Williams, Gaussian Processes for
Machine Learning, MIT Press 2006: eqs. 2.25, 5.8 (marginal likelihood), 5.12 (leave one out).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEVEL, IN_Z, IN_U = 10.0, 100.0, 0.3  # variances of offset and linear terms, relative to the squared exponential's
WIDTH_Z = 2.0  # length scale of the squared exponential in z, in logits
WIDTHS_U = (0.25, 0.5)  # candidate length scales in u, as root mean square distance over the parameters
NOISES = np.logspace(-2.5, 1.5, 17)  # candidate variances of the noise


@dataclass(frozen=True)
class Shape:
    """Hyperparameters chosen by the marginal likelihood: the length scale in u and the variance of the noise."""

    width: float
    noise: float


@dataclass(frozen=True)
class Fit:
    """A fitted process.

    x          inputs (N, 1 + D): z, then u
    weights    (N,): the prediction is a kernel row times these, plus ``mean``
    mean       of the outputs
    expected   leave-one-out prediction of each output (N,)
    residuals  output minus its leave-one-out prediction (N,)
    """

    x: np.ndarray
    shape: Shape
    weights: np.ndarray
    mean: float
    expected: np.ndarray
    residuals: np.ndarray

    def at(self, x: np.ndarray) -> np.ndarray:
        """Predicted outputs (M,) at x (M, 1 + D)."""
        return self.mean + kernel(x, self.x, self.shape.width, self.x[:, 0].mean()) @ self.weights


def fit(x: np.ndarray, y: np.ndarray, shape: Shape) -> Fit:
    """Fit the process to outputs y (N,) at inputs x (N, 1 + D)."""
    mean = float(y.mean())
    inverse = np.linalg.inv(kernel(x, x, shape.width, x[:, 0].mean()) + shape.noise * np.eye(len(y)))
    weights = inverse @ (y - mean)
    residuals = weights / np.diag(inverse)
    return Fit(x, shape, weights, mean, y - residuals, residuals)


def choose(x: np.ndarray, y: np.ndarray) -> Shape:
    """The shape of the largest marginal likelihood of outputs y (N,) at x (N, 1 + D), maximized over their scale."""
    candidates = []
    for width in WIDTHS_U:
        values, vectors = np.linalg.eigh(kernel(x, x, width, x[:, 0].mean()))
        spectrum = np.maximum(values, 0.0) + NOISES[:, None]
        scale = np.maximum(((vectors.T @ (y - y.mean())) ** 2 / spectrum).mean(axis=1), 1e-12)
        likelihood = -len(y) * np.log(scale) - np.log(spectrum).sum(axis=1)
        best = int(np.argmax(likelihood))
        candidates.append((float(likelihood[best]), Shape(width, float(NOISES[best]))))
    return max(candidates, key=lambda f: f[0])[1]


def kernel(a: np.ndarray, b: np.ndarray, width: float, middle: float) -> np.ndarray:
    """Covariances (N, M) of inputs a (N, 1 + D) and b (M, 1 + D). ``middle`` is subtracted from z."""
    za, zb, ua, ub = a[:, 0] - middle, b[:, 0] - middle, a[:, 1:] - 0.5, b[:, 1:] - 0.5
    dots = ua @ ub.T
    far = np.maximum((ua**2).sum(axis=1)[:, None] + (ub**2).sum(axis=1) - 2 * dots, 0.0)
    far = far / (width**2 * max(ua.shape[1], 1)) + (za[:, None] - zb) ** 2 / WIDTH_Z**2
    return LEVEL + IN_Z * np.outer(za, zb) + IN_U * dots + np.exp(-far / 2)


def logit(a: float, resolution: float) -> float:
    """The logit of an accuracy, which is first clipped to [``resolution``, 1 - ``resolution``]."""
    a = min(max(a, resolution), 1 - resolution)
    return math.log(a / (1 - a))


def quantile(values: np.ndarray, weights: np.ndarray, level: float) -> np.ndarray:
    """Weighted conformal quantiles (M,) of values (N,), one for each row of weights (M, N).

    The quantile is the smallest value at which the weight of all values up to it is at least ``level`` of the total.
    The total includes an unseen, infinitely large value of weight 1 (split conformal prediction, Vovk et al. 2005). If
    no value reaches ``level``, the result is the largest value.
    """
    order = np.argsort(values)
    reached = np.cumsum(weights[:, order], axis=1) / (weights.sum(axis=1)[:, None] + 1) >= level - 1e-12
    return np.where(reached.any(axis=1), values[order][np.argmax(reached, axis=1)], values.max())
