"""The end of a search: test scores of the front, summary files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.files.checksums import read_or_damage, write_checked_json
from harness.records import trial_folder
from harness.search.importances import importances
from harness.search.jobs import Pool
from harness.search.study import Study

log = logging.getLogger(__name__)


def score_front(front: Sequence[int], beside: Sequence[int], folder: Path, pool: Pool) -> None:
    """Measure the test accuracy of trials and write it to ``test.json``. A score that the file holds is not repeated.

    Args:
        front: trials that were on the front at some time; a plot of the front over time needs them all.
        beside: baselines that the report draws beside the front.
    """
    path = folder / "test.json"
    scores, wrong = read_or_damage(path)
    valid_scores = {name: score for name, score in scores.items() if isinstance(score, Mapping)}
    if wrong:
        log.warning("%s: %s: the test scores are measured again", folder, wrong)
    todo = [n for n in dict.fromkeys([*front, *beside]) if str(n) not in valid_scores]
    while todo or pool.running:
        while todo and pool.free:
            number = todo.pop()
            pool.submit(number, "score_test", str(trial_folder(folder, number).resolve()))
        for answer in pool.wait(1.0):
            if answer.error:
                log.warning("test accuracy of trial %d: %s", answer.job, answer.error)
            else:
                valid_scores[str(answer.job)] = answer.value
    write_checked_json(path, valid_scores)


def write_summary(study: Study, folder: Path, summary: dict[str, Any]) -> None:
    """Write ``study.json`` and ``importances.json``."""
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
