"""The hypervolume's reference point during a search."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.records import TrialRecord
from harness.space.space import Space
from harness.stats.pareto import Front, log_hypervolume, reference_point


class Reference:
    """The hypervolume's reference point (:func:`harness.stats.pareto.reference_point`).

    For accuracy and the task's metrics it is the chance level: the score of always predicting the most frequent class.
    For a cost it is 1.5 times the largest cost of the baselines and the front. The baselines are the first trials, so
    the point is fixed once they have finished, unless a point of the front costs more than all of them.
    """

    def __init__(self, space: Space, chance: Mapping[str, float]):
        self._objectives, self.chance = space.objectives, chance
        self._baselines: list[list[float]] = []

    def see(self, record: TrialRecord) -> None:
        """Record the values of a finished baseline; other trials are ignored."""
        values = [record.value(o.name) for o in self._objectives]
        if record.baseline and None not in values:
            self._baselines.append([float(v) for v in values if v is not None])

    def point(self, front: Front) -> dict[str, float]:
        """The reference value of each objective, in its own unit; empty before any trial has finished."""
        rows = [*self._baselines, *front.values().tolist()]
        names = [o.name for o in self._objectives]
        return reference_point(np.array(rows), names, front.directions, self.chance) if rows else {}

    def hypervolume(self, front: Front) -> float:
        point = self.point(front)
        return log_hypervolume(front.values(), point, front.directions) if point else 0.0
