"""``stop: dominated``: stop what seems unable to enter the front, take up again what may after all."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from harness.search.extrapolate import Fit, Shape, choose, fit, logit, quantile
from harness.search.rungs import RUNGS, Curve
from harness.stats.pareto import Front

CURVES = 128  # finished trials that `dominated` learns from
PAUSED = 4096  # stopped trials of which it may take up some again: the latest


@dataclass
class Dominated:
    """Stop what cannot enter the front at its size and latency.

    The final accuracy is extrapolated with a bound learned from the study's own finished curves: a
    Gaussian process (``extrapolate.py``) expects it from the best accuracy of the last ``window`` rungs
    (one rung alone is noisy) and the trial's parameters; the bound lies above that by the
    ``confidence`` quantile of the leave-one-out residuals. Residuals count by the closeness of their
    prediction to the trial's (Gaussian, ``near`` logits wide: weak students scatter more than good
    ones; localised conformal prediction, Guan 2023), and 1 / ``exempt`` times where the rule would have
    stopped the trial, of whose like only so many finish (inverse probability weighting, Horvitz and
    Thompson 1952). Nothing stops before ``least`` curves have finished; the last CURVES of them are
    learned from. Nothing stops after the share ``until`` of its epochs: what is left saves little, and
    being wrong costs as much as ever. ``ties``: relative differences of each cost that are within the noise of its
    measurement: nothing goes on only because it seems faster by less.

    A stop is no last word (freeze and thaw; Swersky, Snoek, Adams 2014, arXiv:1406.3896). Early ones rest on few
    curves, so they may be hasty: when the study is nearly done, what would go on by all of its curves, at the
    higher confidence ``second``, is taken up again, the most promising first, and from there on judged by that.

    A confidence holds from enough curves on only. The largest of n residuals bounds the next one with probability
    n / (n + 1) (exchangeable, equal weights), and there is no higher bound: ``confidence`` holds from ``least`` = 6
    curves on (6 / 7 = 85.7 %), ``second`` from 76 on (76 / 77 = 98.7 %). With fewer, what is taken up again is
    judged at n / (n + 1). Unequal weights need more: the sum of the weights then stands for n.
    The numbers are those of ``benchmarks/stopping.py``.
    """

    ties: tuple[float, ...] = ()
    confidence: float = 0.85
    window: int = 2
    near: float = 0.5
    least: int = 6
    until: float = 0.5
    second: float = 0.987
    resolution: float = 0.005  # accuracies are taken to lie this far from 0 and 1 at least
    open: dict[int, Curve] = field(default_factory=dict)  # trials that train
    paused: dict[int, Curve] = field(default_factory=dict)  # trials that were stopped
    done: deque[Curve] = field(default_factory=lambda: deque(maxlen=CURVES))
    front: Front | None = None
    finished: int = 0
    fits: dict[int, tuple[int, list[Curve], Fit]] = field(default_factory=dict)  # by rung: when, of which
    shapes: dict[int, tuple[int, Shape]] = field(default_factory=dict)
    uses_costs = True
    often = True
    takes_up = True

    def begin(self, number: int, curve: Curve) -> None:
        self.open[number] = curve

    def rungs(self, total: int) -> dict[int, int]:
        last = math.floor(self.until * total)
        return {epoch: i for i in range(1, RUNGS) if (epoch := math.ceil(i * total / RUNGS)) <= last}

    def decide(self, number: int, rung: int, accuracy: float) -> str:
        curve = self.open[number]
        curve.rungs[rung] = accuracy
        rival = -1 if curve.costs is None else int(self._rivals([curve])[0])
        if self.front is None or rival < 0 or accuracy >= self.front.values()[rival, 0]:
            return ""
        needed = float(self.front.values()[rival, 0])
        hoped = float(self.optimistic([curve], rung, self.second if curve.again else self.confidence)[0])
        if hoped >= needed:
            return ""
        curve.flagged = True
        if curve.exempt:
            return ""
        return (
            f"dominated: accuracy {accuracy:.4f} may become {hoped:.4f}, but trial {self.front.numbers[rival]} "
            f"has {needed:.4f} at no more size and latency"
        )

    def flagged(self, number: int) -> bool:
        return number in self.open and self.open[number].flagged

    def learn(self, number: int, curve: Curve, final: float | None, feasible: bool) -> None:
        begun = self.open.pop(number, curve)
        if final is None:
            self._pause(number, replace(curve, rungs=begun.rungs or curve.rungs, flagged=False))
            return
        if not math.isfinite(final):
            return
        if curve.places is not None:
            self.finished += 1
            flagged = begun.flagged or curve.flagged
            self.done.append(replace(curve, rungs=begun.rungs or curve.rungs, flagged=flagged, final=final))
        if curve.costs is None or not feasible:
            return
        if self.front is None:
            self.front = Front(("maximize", *("minimize" for _ in curve.costs)))
        self.front.add(number, (final, *curve.costs))

    def _pause(self, number: int, curve: Curve) -> None:
        if not curve.rungs or curve.costs is None or curve.places is None:
            return  # a constraint ended it, or nothing can be foretold of it
        self.paused[number] = curve
        if len(self.paused) > PAUSED:
            del self.paused[next(iter(self.paused))]

    def due(self) -> list[int]:
        at: dict[int, list[int]] = {}
        for number, curve in self.paused.items():
            at.setdefault(max(curve.rungs), []).append(number)
        hopes = {n: h for rung, numbers in at.items() for n, h in zip(numbers, self._hopes(numbers, rung), strict=True)}
        return sorted((n for n, hope in hopes.items() if hope >= 0), key=lambda n: -hopes[n])

    def take_up(self, number: int) -> Curve | None:
        curve = self.paused.pop(number, None)
        return None if curve is None else replace(curve, rungs=dict(curve.rungs), exempt=0.0, again=True)

    def _hopes(self, numbers: list[int], rung: int) -> np.ndarray:
        """How far above what they need the accuracies of stopped trials at a rung may become (M,)."""
        curves = [self.paused[n] for n in numbers]
        rivals = self._rivals(curves)
        if self.front is None or (rivals < 0).all():
            return np.full(len(curves), math.inf)
        needed = np.where(rivals < 0, -math.inf, self.front.values()[rivals, 0])
        return self.optimistic(curves, rung, self.second) - needed

    def _rivals(self, curves: list[Curve]) -> np.ndarray:
        """For each trial (of known costs) the place on the front (M,) of the most accurate point that costs
        no more; -1 where there is none."""
        if self.front is None:
            return np.full(len(curves), -1)
        values, bounds = self.front.values(), np.array([c.costs for c in curves])
        bounds = bounds + np.array(self.ties or 0.0) * np.abs(bounds)
        cheap = (values[:, 1:] <= bounds[:, None]).all(axis=2)
        best = np.where(cheap, values[:, 0], -math.inf)
        return np.where(best.max(axis=1) > -math.inf, best.argmax(axis=1), -1)

    def optimistic(self, curves: list[Curve], rung: int, confidence: float) -> np.ndarray:
        """The accuracies (M,) that the trials will not exceed, at this confidence; infinite where that is not
        known."""
        done, found = self._fit(rung)
        if found is None or any(c.places is None for c in curves):
            return np.full(len(curves), math.inf)
        expected = found.at(np.array([self._inputs(c, rung) for c in curves]))
        weights = np.array([1 / c.exempt if c.flagged else 1.0 for c in done])
        weights = weights * np.exp(-(((found.expected - expected[:, None]) / self.near) ** 2) / 2) + 1e-3
        hoped = expected + quantile(found.residuals, weights, confidence)
        return np.maximum([c.rungs[rung] for c in curves], 1 / (1 + np.exp(-hoped)))

    def _fit(self, rung: int) -> tuple[list[Curve], Fit | None]:
        """The finished curves that have the rung and their fit; None of fewer than ``least``. Its shape is
        chosen again when a fifth more trials have finished, or half of CURVES."""
        at, done, found = self.fits.get(rung, (0, [], None))
        if found is not None and self.finished == at:
            return done, found
        done = [c for c in self.done if rung in c.rungs]
        if len(done) < self.least:
            return done, None
        x = np.array([self._inputs(c, rung) for c in done])
        y = np.array([logit(c.final, self.resolution) for c in done if c.final is not None])
        chosen, shape = self.shapes.get(rung, (0, None))
        if shape is None or self.finished > min(1.2 * chosen, chosen + CURVES // 2):
            shape = choose(x, y)
            self.shapes[rung] = (self.finished, shape)
        self.fits[rung] = (self.finished, done, fit(x, y, shape))
        return done, self.fits[rung][2]

    def _inputs(self, curve: Curve, rung: int) -> np.ndarray:
        latest = [a for r, a in curve.rungs.items() if rung - self.window < r <= rung]
        return np.array([logit(max(latest), self.resolution), *(curve.places or ())])
