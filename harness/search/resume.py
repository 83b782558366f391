"""Continue a study: check that space, code and data are unchanged, and settle the trials that were running."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from harness.errors import SHOWN, SpaceError, cut
from harness.files.access import TABLE_BYTES
from harness.files.checksums import read_or_damage, read_whole
from harness.files.passwords import masked
from harness.recipe import flatten, parse_recipe, parse_recorded
from harness.records import CONTINUES, TOLD, UNTRAINED, TrialRecord, read_record, read_told, trial_folder, write_record
from harness.search import sources
from harness.search.budget import Budget
from harness.search.parameters import stored_distribution, to_stored
from harness.search.storage import JOURNAL
from harness.search.study import Study, excess
from harness.space import trust
from harness.space.space import Space, load_space

log = logging.getLogger(__name__)
MADE_OF = "fingerprint.json"
SUMMARIES = ("study.json", "test.json", "teacher.json", "importances.json", "environment.json", "latency_cache.json")


def check_same_space(space: Space, folder: Path) -> None:
    """Refuse to continue a study with another space. Budget and resources may differ.

    Raises:
        SpaceError: the spaces differ; the message shows the lines.
    """
    path = folder / "space.yaml"
    if not path.exists():
        return
    try:
        before = load_space(path, space.registries)
    except SpaceError as error:
        error.rule = f"the study's copy of its space is damaged or of an older version: {error.rule}"
        advice = f"If it is damaged, remove {path} and give the same command again, with the space as it was."
        error.remedy = f"{error.remedy} Choose another --study name. {advice}".lstrip()
        raise
    if before.fingerprint() == space.fingerprint():
        return
    raise SpaceError(
        str(folder),
        f"the study was made with another space: {_changed(before, space)}",
        remedy=f"Choose another --study name, or give the space as it was. If {path} is damaged, remove it.",
    )


def _changed(before: Space, now: Space) -> str:
    """The values that differ between two spaces, in words; each is cut to SHOWN characters."""
    sides = [dict(flatten(space.identity())) for space in (before, now)]
    changes = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        was, is_now = (cut(masked(repr(side[name])), SHOWN) if name in side else "absent" for side in sides)
        if was != is_now:
            changes.append(f"{name} was {was}, now {is_now}")
    return "; ".join(changes) or "its sections have another form"


def check_same_words(space: Space, folder: Path) -> None:
    """Refuse to continue a study if this version spells names in its recipes differently and cannot read them.

    Only one record is checked, because all records of a study use the same names.

    Raises:
        SpaceError: with the first such name.
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
    """Refuse to continue if trials name code that the space does not name, because scoring and timing a trial runs
    the code named in its record.

    Raises:
        SpaceError: with the names.
    """
    other = sorted(trust.study_code(folder) - trust.named_code(space.source.tree))
    if other:
        rule = f"its trials name code that the space does not: {', '.join(other[:10])}"
        remedy = "Nothing was run. Remove the trials that name it, or choose another --study name."
        raise SpaceError("", rule, remedy=remedy, file=str(folder))


def made_of(space: Space, data: Mapping[str, str]) -> dict[str, str]:
    """Digests of the space's data and of the user's code, by part. ``data`` is the result of the trial module's
    ``fingerprint``."""
    return {**{f"data {part}": digest for part, digest in data.items()}, **sources.code(space)}


def check_same_data(folder: Path, digests: Mapping[str, str]) -> None:
    """Refuse to continue a study with other data, or with other code of the user.

    Args:
        digests: of data and code now, by part (:func:`made_of`).
    Raises:
        SpaceError: data or code differ; the message shows the parts.
    """
    path = folder / MADE_OF
    before, wrong = read_or_damage(path)
    if wrong:
        raise SpaceError(str(folder), wrong, remedy=f"Remove {path} to accept the data and code as they are now.")
    changed = [
        f"-{name}: {before.get(name, 'not there')}\n+{name}: {digests.get(name, 'not there')}"
        for name in sorted({*before, *digests})
        if before and before.get(name) != digests.get(name)
    ]
    if changed:
        lines = "\n".join(changed)
        raise SpaceError(
            str(folder),
            f"the study was made with other data or code:\n--- study\n+++ now\n{lines}\n",
            remedy=f"Choose another --study name, or give them as they were. If no result depends on that, remove "
            f"{path}.",
        )


def check_nothing_lost(study: Study, folder: Path) -> None:
    """Refuse to continue if the folder holds trials that the Optuna study does not know: they would be overwritten.

    Raises:
        SpaceError: there are such trials. The journal is missing or too old, or the database has lost the study.
    """
    trial_count = len(study.trials())
    numbers = [p.parent.name for p in folder.glob("trials/*/record.json")]
    # folders with other names are ignored: the user may have copied one
    unknown = [n for n in numbers if n.isdigit() and int(n) >= trial_count]
    if not unknown:
        return
    raise SpaceError(
        str(folder),
        f"holds {len(unknown)} trials that its study {study.optuna.study_name!r} does not know",
        remedy="Run the same command with --rebuild: the index is rebuilt from the trials' records.",
    )


def complete_already(folder: Path, budget: Budget) -> dict[str, Any] | None:
    """The summary of a study that is complete, else None.

    A study is complete if it has reached its ``budget``, its summary says so, and the records and files of its front
    are intact. A budget of seconds applies to one run, so it is never reached already.
    """
    if damaged := [wrong for name in SUMMARIES if (wrong := read_or_damage(folder / name, TABLE_BYTES)[1])]:
        log.warning("%s: %s: written again", folder, ", ".join(damaged))
    if damaged or read_told(folder / TOLD)[1]:
        return None
    try:
        summary = read_whole(folder / "study.json")
        enough = budget.trials is not None and summary["finished"] >= budget.trials
        spent = budget.epochs is not None and summary.get("epochs", 0) >= budget.epochs
        if summary["status"] != "complete" or not (enough or spent):
            return None
        whole = all(read_record(trial_folder(folder, number)) is not None for number in summary["front"])
    except (OSError, ValueError, KeyError, TypeError):  # an older version's file, without a checksum
        return None
    return summary if whole else None


def settle(study: Study, folder: Path, retries: int, finished: Callable[[TrialRecord], None]) -> None:
    """Settle every trial that a killed driver left RUNNING or WAITING.

    A trial with an intact record is told from it by ``finished``. Any other trial fails and is queued again, at most
    ``retries`` times.
    """
    for _ in study.trials(TrialState.WAITING):
        study.optuna.ask()  # takes the oldest WAITING trial and makes it RUNNING
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
    """Write the record of a failed trial if its worker could not."""
    if not (folder / "record.json").exists():
        write_record(folder, record)


def rebuild(space: Space, folder: Path) -> None:
    """Rebuild the study's index from the trials' records.

    The old journal is kept beside the new one. In a database the old study stays, and the folder gets a new one.
    """
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
    """The Optuna trial of a record. A number without a record becomes a failed trial."""
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
        params={k: to_stored(holes[k], v) for k, v in record.params.items()},
        distributions={k: stored_distribution(holes[k]) for k in record.params},
        constraints=broken,
    )
