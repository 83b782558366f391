"""What final accuracy a trial may reach, learned from the finished trials of the same study.

A Gaussian process (``extrapolate.py``) expects the final accuracy from the best accuracy of the last rungs (one rung
alone is noisy) and the trial's parameters. The bound lies above that expectation by a quantile of the leave-one-out
residuals.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from harness.search.extrapolate import Fit, Shape, choose, fit, logit, quantile
from harness.search.rungs import Curve

CURVES = 128  # finished trials that are learned from: the latest


@dataclass(frozen=True)
class ForecastConfig:
    """The numbers of a forecast; those of ``benchmarks/stopping.py``.

    window      how many of the last rungs the best accuracy is taken from
    near        width in logits within which a residual counts for a prediction
    least       below this many finished curves nothing is bounded
    resolution  accuracies are taken to lie at least this far from 0 and 1
    """

    window: int = 2
    near: float = 0.5
    least: int = 6
    resolution: float = 0.005


@dataclass
class Forecast:
    """Bounds on final accuracies.

    Weak students scatter more than good ones, so a residual counts by the closeness of its prediction to the
    trial's: a Gaussian, ``near`` logits wide (localized conformal prediction, Guan 2023). A finished trial that the
    rule would have stopped stands for all that were stopped: it counts 1 / ``exempt`` times, ``exempt`` being the
    chance that such a trial finishes (inverse probability weighting, Horvitz and Thompson 1952).

    A confidence needs enough curves. The largest of n residuals bounds the next one with probability n / (n + 1)
    (exchangeable, equal weights), and there is no higher bound: 0.85 holds from 6 curves on (6 / 7 = 85.7 %), 0.987
    from 76 on (76 / 77 = 98.7 %). With fewer, the bound has confidence n / (n + 1). With unequal weights, their sum
    stands for n.
    """

    config: ForecastConfig = ForecastConfig()
    done: deque[Curve] = field(default_factory=lambda: deque(maxlen=CURVES))
    finished: int = 0  # how many were ever added; more than ``done`` keeps
    _fits: dict[int, tuple[int, list[Curve], Fit]] = field(default_factory=dict)  # by rung: ``finished`` then, curves
    _shapes: dict[int, tuple[int, Shape]] = field(default_factory=dict)  # by rung: ``finished`` when it was chosen

    def add(self, curve: Curve) -> None:
        """Learn from a trial that trained to its end."""
        self.finished += 1
        self.done.append(curve)

    def bound(self, curves: list[Curve], rung: int, confidence: float) -> np.ndarray:
        """The accuracies (M,) that the trials will not exceed, at this confidence; infinite where that is not
        known."""
        done, fitted = self._fit(rung)
        if fitted is None or any(c.places is None for c in curves):
            return np.full(len(curves), math.inf)
        expected = fitted.at(np.array([self._inputs(c, rung) for c in curves]))
        weights = np.array([1 / c.exempt if c.flagged else 1.0 for c in done])
        weights = weights * np.exp(-(((fitted.expected - expected[:, None]) / self.config.near) ** 2) / 2) + 1e-3
        bounds = expected + quantile(fitted.residuals, weights, confidence)
        return np.maximum([c.rungs[rung] for c in curves], 1 / (1 + np.exp(-bounds)))

    def _fit(self, rung: int) -> tuple[list[Curve], Fit | None]:
        """The finished curves that have the rung, and their fit; None of fewer than ``least``. The kernel's shape is
        chosen again when the number of finished trials has grown by a fifth, or by half of CURVES: choosing takes
        far longer than fitting."""
        at, done, fitted = self._fits.get(rung, (0, [], None))
        if fitted is not None and self.finished == at:
            return done, fitted
        done = [c for c in self.done if rung in c.rungs]
        if len(done) < self.config.least:
            return done, None
        x = np.array([self._inputs(c, rung) for c in done])
        y = np.array([logit(c.final, self.config.resolution) for c in done if c.final is not None])
        chosen, shape = self._shapes.get(rung, (0, None))
        if shape is None or self.finished > min(1.2 * chosen, chosen + CURVES // 2):
            shape = choose(x, y)
            self._shapes[rung] = (self.finished, shape)
        fitted = fit(x, y, shape)
        self._fits[rung] = (self.finished, done, fitted)
        return done, fitted

    def _inputs(self, curve: Curve, rung: int) -> np.ndarray:
        latest = [a for r, a in curve.rungs.items() if rung - self.config.window < r <= rung]
        return np.array([logit(max(latest), self.config.resolution), *(curve.places or ())])
