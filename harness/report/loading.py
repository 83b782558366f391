"""Reading a study's folder: records, summaries and test scores become one table.

A study's folder may come from somebody else, so only data is read: nothing that the folder names is imported.
A missing or unreadable part leads to a gap and a warning, never to a crash.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import SpaceError
from harness.files.access import check_way
from harness.files.checksums import AGAIN, read_or_damage
from harness.recipe import flatten
from harness.records import (
    CONTINUES,
    DIRECTIONS,
    TrialRecord,
    metric_name_mistake,
    read_record,
    trial_folder,
)
from harness.report.study_data import BROKEN, COSTS, PARTS, QUALITY, StudyData, objectives_of, printable, section
from harness.space.settings import Objective
from harness.stats.pareto import LOGGED, nondominated

log = logging.getLogger(__name__)


def load_study(folder: str | Path, objectives: Sequence[str] | None = None) -> StudyData:
    """Read a study's folder.

    Args:
        objectives: measured quantities that replace the objectives of the search.
    Raises:
        SpaceError: the folder holds no study, or no trial has a value of one of ``objectives``.
    """
    folder = Path(folder)
    check_way(folder / "trials" / "0", folder)
    if not (folder / "trials").is_dir():
        raise SpaceError(
            "",
            "must be the folder of a study (it holds no trials/)",
            file=str(folder),
            remedy="Give the folder that `harness search` printed, such as results/digits.",
        )
    study, parts = _study(folder), {name: read_or_damage(folder / name) for name in PARTS}
    damaged = tuple(wrong for _, wrong in parts.values() if wrong)
    chosen = objectives_of({"objectives": objectives, "directions": study.get("directions")} if objectives else study)
    constraints = {k: v for k, v in section(study, "constraints").items() if isinstance(v, Mapping)}
    records, unreadable = _records(folder)
    for name in (o.name for o in chosen):
        if records and objectives and not any(name in r.measurements for r in records.values()):
            raise SpaceError(
                "--objectives", "must be a quantity that the study measured", name, "Name measured quantities."
            )
    for wrong in (*damaged, *(f"trials/{name}: {BROKEN}" for name in unreadable)):
        log.warning("%s: %s; left out. Run the search's command again to repair it.", folder, wrong)
    trials = _table(records, chosen, constraints, parts["test.json"][0])
    return StudyData(
        folder=folder,
        name=printable(str(study.get("name") or folder.resolve().name))[:200],
        trials=trials,
        records=records,
        objectives=chosen,
        constraints=constraints,
        searched=_searched(trials, records),
        study=study,
        environment=parts["environment.json"][0],
        teacher=parts["teacher.json"][0],
        importances={k: v for k, v in parts["importances.json"][0].items() if isinstance(v, Mapping)},
        unreadable=tuple(unreadable),
        damaged=damaged,
    )


def _study(folder: Path) -> dict[str, Any]:
    """The content of ``study.json``. It names the objectives, so no report is possible without it.

    Raises:
        SpaceError: the file is damaged.
    """
    study, wrong = read_or_damage(folder / "study.json")
    try:
        objectives_of(study)
    except (KeyError, TypeError, ValueError, AttributeError):  # of an older version, without a checksum
        wrong = "study.json is damaged: it names no objectives"
    if wrong:
        raise SpaceError("", wrong, file=str(folder), remedy=AGAIN)
    return study


def _records(folder: Path) -> tuple[dict[int, TrialRecord], list[str]]:
    records: dict[int, TrialRecord] = {}
    unreadable: list[str] = []
    for path in sorted((folder / "trials").iterdir()):
        if not os.path.lexists(path / "record.json"):
            continue
        record = read_record(path, folder)
        if record is None or record.number in records:
            unreadable.append(printable(path.name))
        else:
            records[record.number] = record
    return dict(sorted(records.items())), unreadable


def _table(
    records: Mapping[int, TrialRecord],
    objectives: Sequence[Objective],
    constraints: Mapping[str, Mapping[str, float]],
    test: Mapping[str, Any],
) -> pd.DataFrame:
    after = {str(r.diagnostics.get(CONTINUES)): n for n, r in records.items() if r.status != "failed"}
    rows = [
        _row(record, section(test, str(number))) | _continuation(record, after.get(str(number)))
        for number, record in records.items()
    ]
    numbers = [
        *dict.fromkeys([QUALITY, *COSTS, *(o.name for o in objectives)]),
        "latency_low",
        "latency_high",
        *dict.fromkeys(["test_accuracy", *(f"test_{o.name}" for o in objectives if o.name not in LOGGED), "test_n"]),
    ]
    base = ["number", "status", "reason", "baseline", *numbers, "structure", "duration_s", "model"]
    table = pd.DataFrame(rows, columns=None if rows else base)
    for name in numbers:
        table[name] = pd.to_numeric(table[name], errors="coerce") if name in table else math.nan
    names = [o.name for o in objectives]
    finite = table[names].map(math.isfinite).all(axis=1) if len(table) else pd.Series([], dtype=bool)
    table["complete"] = (table["status"] == "ok") & finite
    table["feasible"] = [
        bool(c) and _feasible(row, constraints) for c, (_, row) in zip(table["complete"], table.iterrows(), strict=True)
    ]
    table["front"] = False
    allowed = table.index[table["feasible"]]
    values, directions = table.loc[allowed, names].to_numpy(float), [o.direction for o in objectives]
    table.loc[allowed, "front"] = nondominated(values, directions)
    rest = [c for c in table.columns if c not in base]
    return table[[*base, *rest]].set_index("number", drop=False).rename_axis(None)


def _row(record: TrialRecord, test: Mapping[str, Any]) -> dict[str, Any]:
    latency = record.measurements.get("latency_ms")
    low, high = latency.interval() if latency and latency.values else (math.nan, math.nan)
    extra = {"load_ms": latency.conditions["load_ms"]} if latency and "load_ms" in latency.conditions else {}
    model = str(trial_folder(Path(), record.number) / record.artifact.path) if record.artifact else ""
    measured = {name: m.median for name, m in record.measurements.items() if m.values and _is_quantity(name)}
    leaves = {name: str(v) if isinstance(v, list) else v for name, v in flatten(record.recipe)}
    recipe = {
        printable(name): printable(v) if isinstance(v, str) else v
        for name, v in leaves.items()
        if "." in name or name in ("seed", "teacher")  # any other name could overwrite a column
    }
    return {
        "number": record.number,
        "status": record.status,
        "reason": printable(record.reason),
        "baseline": printable(record.baseline),
        **extra,
        **measured,
        "latency_low": low,
        "latency_high": high,
        "test_accuracy": math.nan,
        **{f"test_{name}": value for name, value in test.items()},
        "structure": record.structure,
        "duration_s": record.duration_s,
        "model": model,
        **recipe,
    }


def _is_quantity(name: str) -> bool:
    return name in LOGGED or name in DIRECTIONS or not metric_name_mistake(name)


def _continuation(record: TrialRecord, after: int | None) -> dict[str, str]:
    """The cells that differ for a stopped trial that was resumed as trial ``after``, and for the resumed trial."""
    if after is not None:
        return {"status": "continued", "reason": f"{record.reason}; resumed as trial {after}"}
    before = record.diagnostics.get(CONTINUES)
    return {} if before is None or record.reason else {"reason": f"resumes trial {before}"}


def _feasible(row: pd.Series, constraints: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether the row meets all constraints; a constraint on a quantity that was not measured is not met."""
    for name, bounds in constraints.items():
        value = row.get(name, math.nan)
        if not bounds.get("min", -math.inf) <= value <= bounds.get("max", math.inf):
            return False
    return True


def _searched(trials: pd.DataFrame, records: Mapping[int, TrialRecord]) -> tuple[str, ...]:
    """Leaves of the recipe that have at least two values among the trials that the sampler chose."""
    names = dict.fromkeys(name for record in records.values() for name, _ in flatten(record.recipe))
    chosen = trials[trials["baseline"] == ""]
    rows = chosen if len(chosen) > 1 else trials
    return tuple(n for n in names if n != "seed" and rows[n].dropna().astype(str).nunique() > 1)
