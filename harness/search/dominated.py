"""``search.stop: dominated``: stop a trial that cannot reach the front, and resume it if it may after all."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from harness.search.forecast import Forecast
from harness.search.rungs import RUNGS, Curve
from harness.stats.pareto import Front

PAUSED = 4096  # stopped trials that are remembered, the latest: more would cost memory and time for little


@dataclass(frozen=True)
class DominatedConfig:
    """The numbers of the rule; those of ``benchmarks/stopping.py``.

    ties        for each cost, the relative difference that is within the noise of its measurement: a trial does not
                go on only because it seems cheaper by less
    confidence  of the bound that stops a trial
    second      of the bound that decides whether a stopped trial is resumed
    until       share of the epochs after which nothing is stopped: little is left to save
    """

    ties: tuple[float, ...] = ()
    confidence: float = 0.85
    second: float = 0.987
    until: float = 0.5


@dataclass
class Dominated:
    """Stop a trial that cannot enter the front at its size and latency.

    A trial stops where the bound on its final accuracy (:class:`Forecast`) lies below the accuracy of a front point
    that costs no more.

    A stopped trial may be resumed (freeze and thaw; Swersky, Snoek, Adams 2014, arXiv:1406.3896). Early decisions
    rest on few curves, so they may be wrong. When the study is nearly done, stopped trials are judged again by all
    of its curves, at the higher confidence ``second``. Those that would not be stopped now are resumed, the most
    promising first, and are judged at that confidence from there on.
    """

    config: DominatedConfig = DominatedConfig()
    forecast: Forecast = field(default_factory=Forecast)
    open: dict[int, Curve] = field(default_factory=dict)  # trials that train
    paused: dict[int, Curve] = field(default_factory=dict)  # trials that were stopped
    front: Front | None = None
    uses_costs = True
    often = True
    resumes = True

    def begin(self, number: int, curve: Curve) -> None:
        self.open[number] = curve

    def rungs(self, total: int) -> dict[int, int]:
        last = math.floor(self.config.until * total)
        return {epoch: i for i in range(1, RUNGS) if (epoch := math.ceil(i * total / RUNGS)) <= last}

    def decide(self, number: int, rung: int, accuracy: float) -> str:
        curve = self.open[number]
        curve.rungs[rung] = accuracy
        rival = -1 if curve.costs is None else int(self._rivals([curve])[0])
        if self.front is None or rival < 0 or accuracy >= self.front.values()[rival, 0]:
            return ""
        needed = float(self.front.values()[rival, 0])
        confidence = self.config.second if curve.resumed else self.config.confidence
        hoped = float(self.forecast.bound([curve], rung, confidence)[0])
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
            flagged = begun.flagged or curve.flagged
            self.forecast.add(replace(curve, rungs=begun.rungs or curve.rungs, flagged=flagged, final=final))
        if curve.costs is None or not feasible:
            return
        if self.front is None:
            self.front = Front(("maximize", *("minimize" for _ in curve.costs)))
        self.front.add(number, (final, *curve.costs))

    def _pause(self, number: int, curve: Curve) -> None:
        if not curve.rungs or curve.costs is None or curve.places is None:
            return  # a constraint ended it, or its accuracy cannot be predicted
        self.paused[number] = curve
        if len(self.paused) > PAUSED:
            del self.paused[next(iter(self.paused))]

    def due(self) -> list[int]:
        at: dict[int, list[int]] = {}
        for number, curve in self.paused.items():
            at.setdefault(max(curve.rungs), []).append(number)
        hopes = {n: h for rung, numbers in at.items() for n, h in zip(numbers, self._hopes(numbers, rung), strict=True)}
        return sorted((n for n, hope in hopes.items() if hope >= 0), key=lambda n: -hopes[n])

    def resume(self, number: int) -> Curve | None:
        curve = self.paused.pop(number, None)
        return None if curve is None else replace(curve, rungs=dict(curve.rungs), exempt=0.0, resumed=True)

    def _hopes(self, numbers: list[int], rung: int) -> np.ndarray:
        """How far above what they need the accuracies of stopped trials at a rung may become (M,)."""
        curves = [self.paused[n] for n in numbers]
        rivals = self._rivals(curves)
        if self.front is None or (rivals < 0).all():
            return np.full(len(curves), math.inf)
        needed = np.where(rivals < 0, -math.inf, self.front.values()[rivals, 0])
        return self.forecast.bound(curves, rung, self.config.second) - needed

    def _rivals(self, curves: list[Curve]) -> np.ndarray:
        """For each trial (with known costs) the index (M,) of the most accurate front point that costs no more; -1 if
        there is none."""
        if self.front is None:
            return np.full(len(curves), -1)
        values, bounds = self.front.values(), np.array([c.costs for c in curves])
        bounds = bounds + np.array(self.config.ties or 0.0) * np.abs(bounds)
        cheap = (values[:, 1:] <= bounds[:, None]).all(axis=2)
        best = np.where(cheap, values[:, 0], -math.inf)
        return np.where(best.max(axis=1) > -math.inf, best.argmax(axis=1), -1)
