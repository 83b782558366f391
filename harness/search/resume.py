"""Continuing a study: is it the same one, is it complete, and what became of its open trials."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from harness.errors import SpaceError
from harness.files.access import TABLE_BYTES
from harness.files.checksums import read_or_damage, read_whole
from harness.recipe import parse_recipe, parse_recorded
from harness.records import CONTINUES, TOLD, UNTRAINED, TrialRecord, read_record, read_told, trial_folder, write_record
from harness.search import sources
from harness.search.budget import Budget
from harness.search.storage import JOURNAL
from harness.search.study import Study, distribution, excess, to_optuna
from harness.space import trust
from harness.space.space import Space, load_space

log = logging.getLogger(__name__)
MADE_OF = "fingerprint.json"
SUMMARIES = ("study.json", "test.json", "teacher.json", "importances.json", "environment.json", "latency_cache.json")


def check_same_space(space: Space, folder: Path) -> None:
    """Refuse to mix two spaces in one study (another budget or other resources are fine).

    Raises:
        SpaceError: with the lines that differ.
    """
    path = folder / "space.yaml"
    if not path.exists():
        return
    try:
        before = load_space(path, space.registries)
    except SpaceError as error:
        error.rule = f"the study's copy of its space is damaged or of an older version: {error.rule}"
        again = f"If it is damaged, remove {path} and give the same command again, with the space as it was."
        error.remedy = f"{error.remedy} Choose another --study name. {again}".lstrip()
        raise
    if before.fingerprint() == space.fingerprint():
        return
    lines = difflib.unified_diff(before.text.splitlines(), space.text.splitlines(), "study", "now", lineterm="", n=0)
    changed = "\n".join(line for line in lines if not line.startswith("@@"))
    raise SpaceError(
        str(folder),
        f"the study was made with another space:\n{changed}\n",
        remedy=f"Choose another --study name, or give the space as it was. If {path} is damaged, remove it.",
    )


def check_same_words(space: Space, folder: Path) -> None:
    """Refuse to go on with trials whose recipes this version reads no more: names in them are spelled otherwise.

    Raises:
        SpaceError: with the first such name. (One record is looked at: a study's have the same names.)
    """
    records = (read_record(path, folder) for path in sorted((folder / "trials").glob("*")))
    record = next(filter(None, records), None)
    if record is None:
        return
    try:
        parse_recorded(record.recipe, space.registries, trial_folder(folder, record.number) / "record.json")
    except SpaceError as error:
        error.rule = f"the trials were recorded by an older version: {error.rule}"
        error.remedy = f"{error.remedy} Choose another --study name.".lstrip()
        raise


def check_same_code(space: Space, folder: Path) -> None:
    """A trial's record is scored and timed with the code that it names: refuse other code than the space names.

    Raises:
        SpaceError: with the names.
    """
    other = sorted(trust.study_code(folder) - trust.named_code(space.source.tree))
    if other:
        rule = f"its trials name code that the space does not: {', '.join(other[:10])}"
        remedy = "Nothing was run. Remove the trials that name it, or choose another --study name."
        raise SpaceError("", rule, remedy=remedy, file=str(folder))


def made_of(space: Space, data: Mapping[str, str]) -> dict[str, str]:
    """What the space's data and the user's code are made of, part by part (``data``: of the trial module's
    ``fingerprint``)."""
    return {**{f"data {part}": digest for part, digest in data.items()}, **sources.code(space)}


def check_same_data(folder: Path, found: Mapping[str, str]) -> None:
    """Refuse results of other data, or of other code of the user's, in one study.

    Args:
        found: what data and code are made of now, part by part.
    Raises:
        SpaceError: with the parts that differ.
    """
    path = folder / MADE_OF
    before, wrong = read_or_damage(path)
    if wrong:
        raise SpaceError(str(folder), wrong, remedy=f"Remove {path} to accept the data and code as they are now.")
    changed = [
        f"-{name}: {before.get(name, 'not there')}\n+{name}: {found.get(name, 'not there')}"
        for name in sorted({*before, *found})
        if before and before.get(name) != found.get(name)
    ]
    if changed:
        lines = "\n".join(changed)
        raise SpaceError(
            str(folder),
            f"the study was made with other data or code:\n--- study\n+++ now\n{lines}\n",
            remedy=f"Choose another --study name, or give them as they were. Where no result depends on it, remove "
            f"{path}.",
        )


def check_nothing_lost(study: Study, folder: Path) -> None:
    """Refuse to begin again where trials have run of which the study knows nothing: they would be
    overwritten.

    Raises:
        SpaceError: the journal is gone or an older one, or the database has lost the study.
    """
    known = len(study.trials())
    numbers = [p.parent.name for p in folder.glob("trials/*/record.json")]
    unknown = [n for n in numbers if n.isdigit() and int(n) >= known]  # the user may have put a copy beside them
    if not unknown:
        return
    raise SpaceError(
        str(folder),
        f"holds {len(unknown)} trials that its study {study.optuna.study_name!r} does not know",
        remedy="Run the same command with --rebuild: the index is made again from the trials' records.",
    )


def complete_already(folder: Path, budget: Budget) -> dict[str, Any] | None:
    """The summary of a study that has its ``budget``, is closed and has its front's records and files whole,
    else None. Seconds are those of one run, so they are never there already."""
    if damaged := [wrong for name in SUMMARIES if (wrong := read_or_damage(folder / name, TABLE_BYTES)[1])]:
        log.warning("%s: %s: made again", folder, ", ".join(damaged))
    if damaged or read_told(folder / TOLD)[1]:
        return None
    try:
        summary = read_whole(folder / "study.json")
        enough = budget.trials is not None and summary["finished"] >= budget.trials
        spent = budget.epochs is not None and summary.get("epochs", 0) >= budget.epochs
        if summary["status"] != "complete" or not (enough or spent):
            return None
        whole = all(read_record(trial_folder(folder, number)) is not None for number in summary["front"])
    except (OSError, ValueError, KeyError, TypeError):  # as an older version left it, without a checksum
        return None
    return summary if whole else None


def settle(study: Study, folder: Path, retries: int, finished: Callable[[TrialRecord], None]) -> None:
    """Settle every trial that a killed driver left RUNNING, or WAITING to be asked for: told from its record
    where that is whole, otherwise failed and queued again."""
    for _ in study.trials(TrialState.WAITING):
        study.optuna.ask()  # takes the oldest one: now it is RUNNING
    for trial in study.trials(TrialState.RUNNING):
        place = trial_folder(folder, trial.number)
        record = read_record(place)
        if record is not None:
            study.reopen(trial)
            finished(record)
        else:
            (place / UNTRAINED).unlink(missing_ok=True)
            study.retry(trial, "the search was killed while it ran", retries)
    study.queue_retries()


def write_failed(folder: Path, record: TrialRecord) -> None:
    """Keep the record of a failure that the worker could not write."""
    if not (folder / "record.json").exists():
        write_record(folder, record)


def rebuild(space: Space, folder: Path) -> None:
    """Make the study's index again from the trials' records. The old journal is kept beside the new one; in a
    database the old study stays, and the folder gets another."""
    check_same_words(space, folder)
    journal = folder / JOURNAL
    if space.settings.storage is not None:
        from harness.search.database import new_id

        new_id(folder)
    elif journal.exists():
        os.replace(journal, folder / f"{JOURNAL}.replaced")
    with contextlib.suppress(FileNotFoundError):
        (folder / "study.json").unlink()
    study = Study(space, folder)
    records = {r.number: r for p in sorted((folder / "trials").glob("*")) if (r := read_record(p)) is not None}
    baselines = {b.recipe.key(): i for i, b in enumerate(space.baselines())}
    for number in range(max(records, default=-1) + 1):
        study.optuna.add_trial(_frozen(space, records.get(number), baselines))


def _frozen(space: Space, record: TrialRecord | None, baselines: dict[str, int]) -> optuna.trial.FrozenTrial:
    """A told trial as its record has it; a number without a record becomes a failure."""
    if record is None:
        return optuna.create_trial(state=TrialState.FAIL, user_attrs={"reason": "no record"})
    holes = {h.internal: h for h in space.holes}
    values = [record.value(o.name) for o in space.objectives]
    complete = record.status == "ok" and all(v is not None for v in values)
    attrs: dict[str, Any] = {
        "recipe": json.dumps(record.recipe),
        **({CONTINUES: record.diagnostics[CONTINUES]} if CONTINUES in record.diagnostics else {}),
        **({} if complete else {"reason": record.reason, **({} if record.status == "stopped" else {"final": True})}),
    }
    if record.baseline:
        key = parse_recipe({**record.recipe, "seed": 0}, space.registries).key()
        attrs |= {"baseline": record.baseline, "baseline_index": baselines.get(key)}
    stopped = record.status == "stopped"
    broken = excess(space, record) if complete or stopped else {}
    state = TrialState.PRUNED if stopped or any(v > 0 for v in broken.values()) else TrialState.COMPLETE
    state = state if complete or stopped else TrialState.FAIL
    return optuna.create_trial(
        state=state,
        values=[v for v in values if v is not None] if state is TrialState.COMPLETE else None,
        user_attrs=attrs,
        params={k: to_optuna(holes[k], v) for k, v in record.params.items()},
        distributions={k: distribution(holes[k]) for k in record.params},
        constraints=broken,
    )
