"""The end of a search: the hypervolume's reference, test scores of the front, summary files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.checksums import read_or_damage, write_checked_json
from harness.pareto import Front, log_hypervolume, reference_point
from harness.records import TrialRecord
from harness.search.importances import importances
from harness.search.study import Study
from harness.space import Space

if TYPE_CHECKING:
    from harness.search.run import Pool

log = logging.getLogger(__name__)


class Reference:
    """The hypervolume's reference point: chance for accuracy and the task's metrics (what always saying the most
    frequent class scores), and 1.5 times the largest cost of the baselines and of the front
    (:func:`harness.pareto.reference_point`). The baselines are the first trials, so it stands when they have
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


def score_front(front: Sequence[int], beside: Sequence[int], folder: Path, pool: Pool) -> None:
    """Test accuracy of the files that were on the front at some time (a curve of the search over time
    needs them all) and of the baselines drawn beside it, each taken once: what ``test.json`` holds is
    never computed again."""
    path = folder / "test.json"
    scores, wrong = read_or_damage(path)
    known = {name: found for name, found in scores.items() if isinstance(found, Mapping)}
    if wrong:
        log.warning("%s: %s: the scores are taken again", folder, wrong)
    todo = [n for n in dict.fromkeys([*front, *beside]) if str(n) not in known]
    while todo or pool.running:
        while todo and pool.free:
            number = todo.pop()
            pool.submit(number, "score_test", str((folder / "trials" / f"{number:05d}").resolve()))
        for answer in pool.wait(1.0):
            if answer.error:
                log.warning("test accuracy of trial %d: %s", answer.job, answer.error)
            else:
                known[str(answer.job)] = answer.value
    write_checked_json(path, known)


def write_summary(study: Study, folder: Path, summary: dict[str, Any]) -> None:
    """``study.json`` and ``importances.json``."""
    space = study.space
    write_checked_json(folder / "importances.json", importances(study))
    write_checked_json(
        folder / "study.json",
        {
            "name": folder.resolve().name,
            "objectives": [o.name for o in space.objectives],
            "directions": {o.name: o.direction for o in space.objectives},
            "constraints": space.constraints,
            "fingerprint": space.fingerprint(),
            "sampler": space.settings.sampler,
            "seed": space.settings.seed,
            **summary,
        },
    )
