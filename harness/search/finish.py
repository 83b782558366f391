"""The end of a search: the hypervolume's reference, test scores of the front, summary files."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.pareto import Front, log_hypervolume
from harness.records import TrialRecord, write_json_durably
from harness.search.importances import importances
from harness.search.study import Study
from harness.space import Space

if TYPE_CHECKING:
    from harness.search.run import Pool

log = logging.getLogger(__name__)


class Reference:
    """The hypervolume's reference point, fixed by the first baseline: chance accuracy, the widest
    fp32 student's bytes and 1.5 times its latency. Costs count in logarithms."""

    def __init__(self, space: Space, chance: float):
        self._objectives, self._chance = space.objectives, chance
        self._record: TrialRecord | None = None

    def see(self, record: TrialRecord) -> None:
        """Take the widest fp32 student's values (until it is there: the first finished trial's)."""
        if self._record is None or record.baseline == "widest-fp32":
            self._record = record

    def point(self) -> dict[str, float]:
        """Raw value of each objective; empty before any trial finished."""
        if self._record is None:
            return {}
        factor = {"latency_ms": 1.5, "load_ms": 1.5}
        found = {o.name: (self._record.value(o.name) or 0.0) * factor.get(o.name, 1.0) for o in self._objectives}
        return {**found, **({"accuracy": self._chance} if "accuracy" in found else {})}

    def hypervolume(self, front: Front) -> float:
        point = self.point()
        return log_hypervolume(front.values(), point, front.directions) if point else 0.0


def score_front(front: Sequence[int], beside: Sequence[int], folder: Path, pool: Pool) -> None:
    """Test accuracy of the files that were on the front at some time (a curve of the search over time
    needs them all) and of the baselines drawn beside it, each taken once: what ``test.json`` holds is
    never computed again."""
    path = folder / "test.json"
    known: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
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
    write_json_durably(path, known)


def write_summary(study: Study, folder: Path, summary: dict[str, Any]) -> None:
    """``study.json`` and ``importances.json``."""
    space = study.space
    write_json_durably(folder / "importances.json", importances(study))
    write_json_durably(
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
