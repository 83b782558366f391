"""Early stopping for several objectives: which trials go on at a rung, and why not.

A rung is a share of a trial's epochs after which its accuracy is taken. Size and latency are known
before training where the structure is, so a rule asks only what accuracy may still become. Rules are
plain objects without Optuna or Ray: a benchmark replays them on recorded curves.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from harness.pareto import Front, nondominated
from harness.search.extrapolate import Fit, Shape, choose, fit, logit, quantile

NEVER_STOPPED = 0.1  # share of the trials that no rule stops, so that what is learned stays honest
LEARNED = 300  # trials that `moasha` looks back on: a decision costs the same at any number of them
CURVES = 128  # finished trials that `dominated` learns from
RUNGS = 20  # parts of a trial: every epoch of a short one, every 5 % of a long one


def never_stopped(seed: int, number: int) -> bool:
    """Is the trial among the random ones that train to their end whatever they promise?"""
    return random.Random(f"{seed} {number} never stopped").random() < NEVER_STOPPED


@dataclass
class Curve:
    """What is known of one trial: costs (losses, None where they are not known before the end), its
    parameters as places between 0 and 1 (None where the space cannot express it), accuracy by rung, the
    final accuracy once it finished; ``exempt``: the chance with which such a trial is never stopped, 0
    for one that may be; ``flagged``: the rule would have stopped it, had it not been exempt."""

    costs: tuple[float, ...] | None
    exempt: float = 0.0
    places: tuple[float, ...] | None = ()
    rungs: dict[int, float] = field(default_factory=dict)
    final: float | None = None
    flagged: bool = False


class Rule(Protocol):
    """Decides at rungs from the curves of the trials that it was told of. ``uses_costs``: it wants them
    before training; ``often``: a trial reaches a rung every few epochs."""

    uses_costs: bool
    often: bool

    def begin(self, number: int, curve: Curve) -> None:
        """A trial starts."""
        ...

    def rungs(self, total: int) -> dict[int, int]:
        """The epochs after which accuracy is taken, ascending, below ``total``; each with the number of
        its rung, which is that of the same share in trials of other lengths."""
        ...

    def decide(self, number: int, rung: int, accuracy: float) -> str:
        """Why the trial stops here; empty where it goes on."""
        ...

    def flagged(self, number: int) -> bool:
        """Would a trial that trains have been stopped, had it not been exempt?"""
        ...

    def learn(self, number: int, curve: Curve, final: float | None, feasible: bool) -> None:
        """A trial ended: with its ``final`` accuracy (``feasible``: it may stand on the front), or
        stopped. ``curve`` is what its record says; a resumed study's trials were never begun here."""
        ...


class Never:
    """``stop: none``."""

    uses_costs = False
    often = False

    def begin(self, number: int, curve: Curve) -> None:
        pass

    def rungs(self, total: int) -> dict[int, int]:
        return {}

    def decide(self, number: int, rung: int, accuracy: float) -> str:
        return ""

    def flagged(self, number: int) -> bool:
        return False

    def learn(self, number: int, curve: Curve, final: float | None, feasible: bool) -> None:
        pass


@dataclass
class Dominated:
    """``stop: dominated``: stop what cannot enter the front at its size and latency.

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
    measurement: nothing goes on only because it seems faster by less. The numbers are those of
    ``benchmarks/stopping.py``.
    """

    ties: tuple[float, ...] = ()
    confidence: float = 0.985
    window: int = 2
    near: float = 0.5
    least: int = 6
    until: float = 0.5
    resolution: float = 0.005  # accuracies are taken to lie this far from 0 and 1 at least
    open: dict[int, Curve] = field(default_factory=dict)  # trials that train
    done: deque[Curve] = field(default_factory=lambda: deque(maxlen=CURVES))
    front: Front | None = None
    finished: int = 0
    fits: dict[int, tuple[int, list[Curve], Fit]] = field(default_factory=dict)  # by rung: when, of which
    shapes: dict[int, tuple[int, Shape]] = field(default_factory=dict)
    uses_costs = True
    often = True

    def begin(self, number: int, curve: Curve) -> None:
        self.open[number] = curve

    def rungs(self, total: int) -> dict[int, int]:
        last = math.floor(self.until * total)
        return {epoch: i for i in range(1, RUNGS) if (epoch := math.ceil(i * total / RUNGS)) <= last}

    def decide(self, number: int, rung: int, accuracy: float) -> str:
        curve = self.open[number]
        curve.rungs[rung] = accuracy
        needed = self._needed(curve.costs)
        if needed is None or accuracy >= needed[1]:
            return ""
        hoped = self.optimistic(curve, rung)
        if hoped is None or hoped >= needed[1]:
            return ""
        curve.flagged = True
        if curve.exempt:
            return ""
        return (
            f"dominated: accuracy {accuracy:.4f} may become {hoped:.4f}, but trial {needed[0]} "
            f"has {needed[1]:.4f} at no more size and latency"
        )

    def flagged(self, number: int) -> bool:
        return number in self.open and self.open[number].flagged

    def learn(self, number: int, curve: Curve, final: float | None, feasible: bool) -> None:
        begun = self.open.pop(number, curve)
        if final is None or not math.isfinite(final):
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

    def _needed(self, costs: tuple[float, ...] | None) -> tuple[int, float] | None:
        """The most accurate point of the front that costs no more, and its accuracy."""
        if costs is None or self.front is None:
            return None
        values, bounds = self.front.values(), np.array(costs)
        ties = np.array(self.ties or [0.0] * len(costs)) * np.abs(bounds)
        cheap = np.flatnonzero((values[:, 1:] <= bounds + ties).all(axis=1))
        if not len(cheap):
            return None
        best = cheap[np.argmax(values[cheap, 0])]
        return self.front.numbers[best], float(values[best, 0])

    def optimistic(self, curve: Curve, rung: int) -> float | None:
        """The accuracy that the trial will not exceed, at the rule's confidence; None: not known."""
        done, found = self._fit(rung)
        if found is None or curve.places is None:
            return None
        expected = found.at(self._inputs(curve, rung))
        weights = np.array([1 / c.exempt if c.flagged else 1.0 for c in done])
        weights *= np.exp(-(((found.expected - expected) / self.near) ** 2) / 2)
        hoped = expected + quantile(found.residuals, weights + 1e-3, self.confidence)
        return max(curve.rungs[rung], 1 / (1 + math.exp(-hoped)))

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


@dataclass
class Moasha:
    """``stop: moasha``: asynchronous successive halving for several objectives (Schmucker, Donini,
    Zafar, Salinas, Archambeau 2021, arXiv:2106.12639, algorithm 1).

    Rungs are E / eta**k epochs. At a rung the trial goes on when it is among the best 1/eta of all
    trials that have reached it, ranked by non-dominated sorting of (accuracy there, costs), within a
    layer by an epsilon-net (section 3.2): the member farthest from those already ranked comes next.
    Costs that are not known before the end leave the accuracy alone.
    """

    eta: int = 3
    open: dict[int, Curve] = field(default_factory=dict)
    reached: dict[int, deque[tuple[float, ...]]] = field(default_factory=dict)  # losses by rung
    uses_costs = True
    often = False

    def begin(self, number: int, curve: Curve) -> None:
        self.open[number] = curve

    def rungs(self, total: int) -> dict[int, int]:
        powers = range(int(math.log(max(total, 1), self.eta) + 1e-9), 0, -1)
        return {epoch: k for k in powers if (epoch := math.ceil(total / self.eta**k)) < total}

    def decide(self, number: int, rung: int, accuracy: float) -> str:
        curve = self.open[number]
        here = self._reach(rung, accuracy, curve.costs)
        known = min(len(losses) for losses in here)  # the accuracy alone where somebody's costs are unknown
        kept = max(len(here) // self.eta, 1)
        if curve.exempt or len(here) - 1 in ranked(np.array([losses[:known] for losses in here]), kept):
            return ""
        return f"moasha: not among the best {kept} of {len(here)} trials at rung {rung}"

    def flagged(self, number: int) -> bool:
        return False

    def learn(self, number: int, curve: Curve, final: float | None, feasible: bool) -> None:
        if self.open.pop(number, None) is None:
            for rung, accuracy in curve.rungs.items():
                self._reach(rung, accuracy, curve.costs)

    def _reach(self, rung: int, accuracy: float, costs: tuple[float, ...] | None) -> deque[tuple[float, ...]]:
        """The losses of all that have reached the rung, this one the last."""
        here = self.reached.setdefault(rung, deque(maxlen=LEARNED))
        here.append((-accuracy, *(costs or ())))
        return here


def ranked(losses: np.ndarray, count: int) -> list[int]:
    """Indices of the ``count`` best of losses (N, M), the best first: layer after layer of the
    non-dominated sorting, each layer in the order of an epsilon-net on losses scaled to [0, 1]."""
    span = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(axis=0)) / np.where(span > 0, span, 1.0)
    left, order = np.arange(len(losses)), []
    while len(order) < count and len(left):
        layer = nondominated(losses[left], ["minimize"] * losses.shape[1])
        order += [int(i) for i in left[layer][epsilon_net(scaled[left[layer]], count - len(order))]]
        left = left[~layer]
    return order


def epsilon_net(points: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` of points (N, M): the one of the least first coordinate, then always the one
    farthest from those before it."""
    order = [int(np.argmin(points[:, 0]))]
    distance = np.linalg.norm(points - points[order[0]], axis=1)
    while len(order) < min(count, len(points)):
        distance[order] = -1.0
        order.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(points - points[order[-1]], axis=1))
    return np.array(order)


def make_rule(name: str, ties: tuple[float, ...] = ()) -> Rule:
    """The rule of ``search.stop``; ``ties``: see :class:`Dominated`."""
    return Dominated(ties) if name == "dominated" else Moasha() if name == "moasha" else Never()


def as_costs(values: Sequence[float | None]) -> tuple[float, ...] | None:
    """Costs of a trial, None where one is not known."""
    known = [v for v in values if v is not None]
    return tuple(known) if len(known) == len(values) else None
