"""``stop: moasha``: asynchronous successive halving for several objectives."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from harness.search.rungs import Curve, Never
from harness.stats.pareto import best

LEARNED = 300  # latest trials kept per rung, so that the cost of a decision is bounded


@dataclass
class Moasha(Never):
    """``stop: moasha``: asynchronous successive halving for several objectives (Schmucker, Donini,
    Zafar, Salinas, Archambeau 2021, arXiv:2106.12639, algorithm 1).

    Rungs are at E / eta**k epochs. A trial continues at a rung if it is among the best 1/eta of the trials that have
    reached the rung. They are ranked by non-dominated sorting of (accuracy at the rung, costs); within a layer, by an
    epsilon-net (section 3.2): the member farthest from those already ranked comes next. If costs are not known before
    training ends, the ranking uses accuracy only.
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
        comparable = min(len(losses) for losses in here)  # only the accuracy if any trial's costs are unknown
        quota = max(len(here) // self.eta, 1)
        if curve.exempt or len(here) - 1 in ranked(np.array([losses[:comparable] for losses in here]), quota):
            return ""
        return f"moasha: not among the best {quota} of {len(here)} trials at rung {rung}"

    def learn(self, number: int, curve: Curve, final: float | None, feasible: bool) -> None:
        if self.open.pop(number, None) is None:
            for rung, accuracy in curve.rungs.items():
                self._reach(rung, accuracy, curve.costs)

    def _reach(self, rung: int, accuracy: float, costs: tuple[float, ...] | None) -> deque[tuple[float, ...]]:
        """Add this trial's losses to those of the rung; return them, this trial's last."""
        here = self.reached.setdefault(rung, deque(maxlen=LEARNED))
        here.append((-accuracy, *(costs or ())))
        return here


def ranked(losses: np.ndarray, count: int) -> list[int]:
    """Indices of the ``count`` best of losses (N, M), the best first: layer by layer of the non-dominated sorting,
    each layer in the order of an epsilon-net on losses scaled to [0, 1]."""
    span = np.ptp(losses, axis=0)
    return best((losses - losses.min(axis=0)) / np.where(span > 0, span, 1.0), count, epsilon_net)


def epsilon_net(points: np.ndarray, count: int) -> list[int]:
    """Indices of ``count`` points of (N, M): first the one with the smallest first coordinate, then repeatedly the one
    farthest from those already taken."""
    order = [int(np.argmin(points[:, 0]))]
    distance = np.linalg.norm(points - points[order[0]], axis=1)
    while len(order) < min(count, len(points)):
        distance[order] = -1.0
        order.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(points - points[order[-1]], axis=1))
    return order
