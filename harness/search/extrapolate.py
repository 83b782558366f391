"""The final accuracy of a trial from a part of its curve: a Gaussian process on finished trials.

Inputs are z, the logit of the accuracy reached so far, and u, the trial's parameters as places in
[0, 1]; the output is the logit of the final accuracy. The kernel is a line in z (hardly penalized), a
line in u, and a bump: trials that start alike with nearby parameters end alike, so a slow start with
a small learning rate is told from one with two bits. Rasmussen and Williams, Gaussian Processes for
Machine Learning, MIT Press 2006: eqs. 2.25, 5.8 (marginal likelihood), 5.12 (leave one out).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEVEL, IN_Z, IN_U = 10.0, 100.0, 0.3  # variances of the lines, the bump's being 1
WIDTH_Z = 2.0  # of the bump, in logits
WIDTHS_U = (0.25, 0.5)  # of the bump: distances a parameter, in the root mean square
NOISES = np.logspace(-2.5, 1.5, 17)  # variances of the noise


@dataclass(frozen=True)
class Shape:
    """What the likelihood chooses: the bump's width in u, the variance of the noise."""

    width: float
    noise: float


@dataclass(frozen=True)
class Fit:
    """A fitted process: inputs x (N, 1 + D), its weights (N,), the mean of the outputs; what it says
    of each output without having seen it (``expected``, N), and how far above that the output lies
    (``residuals``, N)."""

    x: np.ndarray
    shape: Shape
    weights: np.ndarray
    mean: float
    expected: np.ndarray
    residuals: np.ndarray

    def at(self, x: np.ndarray) -> np.ndarray:
        """The outputs (M,) expected at x (M, 1 + D)."""
        return self.mean + kernel(x, self.x, self.shape.width, self.x[:, 0].mean()) @ self.weights


def fit(x: np.ndarray, y: np.ndarray, shape: Shape) -> Fit:
    """The process of outputs y (N,) at inputs x (N, 1 + D)."""
    mean = float(y.mean())
    inverse = np.linalg.inv(kernel(x, x, shape.width, x[:, 0].mean()) + shape.noise * np.eye(len(y)))
    weights = inverse @ (y - mean)
    residuals = weights / np.diag(inverse)
    return Fit(x, shape, weights, mean, y - residuals, residuals)


def choose(x: np.ndarray, y: np.ndarray) -> Shape:
    """The shape under which outputs y (N,) at x (N, 1 + D) are likeliest, whatever their scale."""
    found = []
    for width in WIDTHS_U:
        values, vectors = np.linalg.eigh(kernel(x, x, width, x[:, 0].mean()))
        spectrum = np.maximum(values, 0.0) + NOISES[:, None]
        scale = np.maximum(((vectors.T @ (y - y.mean())) ** 2 / spectrum).mean(axis=1), 1e-12)
        likelihood = -len(y) * np.log(scale) - np.log(spectrum).sum(axis=1)
        best = int(np.argmax(likelihood))
        found.append((float(likelihood[best]), Shape(width, float(NOISES[best]))))
    return max(found, key=lambda f: f[0])[1]


def kernel(a: np.ndarray, b: np.ndarray, width: float, middle: float) -> np.ndarray:
    """Covariances (N, M) of inputs a (N, 1 + D) and b (M, 1 + D); z is counted from ``middle``."""
    za, zb, ua, ub = a[:, 0] - middle, b[:, 0] - middle, a[:, 1:] - 0.5, b[:, 1:] - 0.5
    dots = ua @ ub.T
    far = np.maximum((ua**2).sum(axis=1)[:, None] + (ub**2).sum(axis=1) - 2 * dots, 0.0)
    far = far / (width**2 * max(ua.shape[1], 1)) + (za[:, None] - zb) ** 2 / WIDTH_Z**2
    return LEVEL + IN_Z * np.outer(za, zb) + IN_U * dots + np.exp(-far / 2)


def logit(a: float, resolution: float) -> float:
    """Of an accuracy, which counts as ``resolution`` away from 0 and 1 at least."""
    a = min(max(a, resolution), 1 - resolution)
    return math.log(a / (1 - a))


def quantile(values: np.ndarray, weights: np.ndarray, level: float) -> np.ndarray:
    """For each row of weights (M, N) the smallest of values (N,) that at least ``level`` of the weight does
    not exceed, where one more, unseen value of weight 1 counts as infinitely large (split conformal, Vovk et
    al. 2005): the largest one where that is not reached."""
    order = np.argsort(values)
    reached = np.cumsum(weights[:, order], axis=1) / (weights.sum(axis=1)[:, None] + 1) >= level - 1e-12
    return np.where(reached.any(axis=1), values[order][np.argmax(reached, axis=1)], values.max())
