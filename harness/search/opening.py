"""The beginning of a search: open the study, and count what earlier runs of it have told."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from optuna.trial import TrialState

from harness.files.access import write_bytes_durably
from harness.files.checksums import write_checked_json
from harness.machine.host import environment
from harness.measure.lab import Lab
from harness.recipe import key_of
from harness.records import read_record, trial_folder
from harness.search import resume
from harness.search.account import count
from harness.search.budget import Budget
from harness.search.counts import Results, epochs_of
from harness.search.jobs import Pool
from harness.search.latencies import Latencies
from harness.search.progress import Progress
from harness.search.reference import Reference
from harness.search.rungs import Rule
from harness.search.signals import Stop
from harness.search.state import Search
from harness.search.study import Study
from harness.search.timeline import Timeline
from harness.search.tracking import Tracking
from harness.space.space import Space
from harness.stats.pareto import Front

log = logging.getLogger(__name__)


def open_search(
    space: Space,
    folder: Path,
    budget: Budget,
    pool: Pool,
    lab: Lab,
    progress: Progress,
    stop: Stop,
    chance: Mapping[str, float],
    rule: Rule,
    tracking: Tracking,
) -> Search:
    """Open the study in ``folder``, write what it was made with, and count the trials of earlier runs."""
    write_bytes_durably(folder / "space.yaml", space.text.encode())
    write_checked_json(folder / "environment.json", environment())
    study = Study(space, folder, lambda: stop.now)
    resume.check_nothing_lost(study, folder)
    run = Search(
        space,
        folder,
        study,
        pool,
        Latencies(lab, folder),
        progress,
        stop,
        budget,
        rule,
        Timeline(folder),
        Results(Front(tuple(o.direction for o in space.objectives)), Reference(space, chance)),
        tracking=tracking,
    )
    study.front = lambda: run.results.front.numbers
    _count_earlier(run)
    return run


def _count_earlier(run: Search) -> None:
    """Update counts, rule and results with the trials that earlier runs of this study told."""
    told: dict[int, int] = {}
    for trial in run.study.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
        if trial.state is TrialState.FAIL and "final" not in trial.user_attrs:
            continue
        record = read_record(trial_folder(run.folder, trial.number))
        told[trial.number] = 0 if record is None else epochs_of(record)
        if record is not None:
            run.study.keys.setdefault(key_of(record.recipe), record.number)
            run.latencies.recall(record)
            count(run, record, trial.state is TrialState.COMPLETE)
        elif trial.state is TrialState.COMPLETE:
            run.study.damaged.append(trial.number)
    run.timeline.open(told)
    run.latencies.mend()
    for number in run.study.damaged:
        log.warning(
            "%s: the record is damaged or does not match its file; the trial no longer counts and is repeated",
            trial_folder(run.folder, number),
        )
