"""The hypervolume's reference point, while a search runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.records import TrialRecord
from harness.space.space import Space
from harness.stats.pareto import Front, log_hypervolume, reference_point


class Reference:
    """The hypervolume's reference point: chance for accuracy and the task's metrics (what always saying the most
    frequent class scores), and 1.5 times the largest cost of the baselines and of the front
    (:func:`harness.stats.pareto.reference_point`). The baselines are the first trials, so it stands when they have
    finished; it moves only where a point of the front costs more than every one of them."""

    def __init__(self, space: Space, chance: Mapping[str, float]):
        self._objectives, self.chance = space.objectives, chance
        self._baselines: list[list[float]] = []

    def see(self, record: TrialRecord) -> None:
        """Take a finished baseline's values."""
        values = [record.value(o.name) for o in self._objectives]
        if record.baseline and None not in values:
            self._baselines.append([float(v) for v in values if v is not None])

    def point(self, front: Front) -> dict[str, float]:
        """Raw value of each objective; empty before any trial finished."""
        rows = [*self._baselines, *front.values().tolist()]
        names = [o.name for o in self._objectives]
        return reference_point(np.array(rows), names, front.directions, self.chance) if rows else {}

    def hypervolume(self, front: Front) -> float:
        point = self.point(front)
        return log_hypervolume(front.values(), point, front.directions) if point else 0.0
