"""A study as one table, read from the files in its folder.

A study's folder may come from somebody else, so only data is read: nothing that the folder names is imported.
A missing or unreadable part leads to a gap and a warning, never to a crash.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import HarnessError, SpaceError, disk_error
from harness.files.access import check_way
from harness.files.checksums import AGAIN, read_or_damage
from harness.recipe import flatten
from harness.records import (
    BASELINES,
    CONTINUES,
    DIRECTIONS,
    WIDEST_FP32,
    WIDTH_SWEEP,
    TrialRecord,
    metric_name_mistake,
    read_record,
    trial_folder,
)
from harness.space.settings import MAX_OBJECTIVES, Objective
from harness.stats.pareto import LOGGED, nondominated

log = logging.getLogger(__name__)
_WRONG = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")  # a terminal may take control characters as commands
PARTS = ("test.json", "teacher.json", "environment.json", "importances.json", "confirm.json")
BROKEN = "the record is broken or does not match its file"
SWEEP = (WIDEST_FP32, WIDTH_SWEEP)  # the plain fp32 student at every width
QUALITY = "accuracy"
COSTS = ("size_bytes", "latency_ms")


@dataclass(frozen=True)
class StudyData:
    """The content of a study's files.

    trials       one row per trial, indexed by number. ``status`` is ok, stopped, failed, or continued (stopped,
                 then resumed as another trial). Other columns: ``reason baseline accuracy size_bytes latency_ms``
                 (medians, and every other measured quantity), ``latency_low latency_high`` (95 %
                 interval), ``test_accuracy test_n structure duration_s feasible front model``, ``test_NAME``
                 of the task's other metrics, and one column per leaf of the recipe, by its dotted name
    searched     dotted names whose values differ between the searched trials
    unreadable   names of trial folders whose record is broken or does not match its file
    damaged      one text for each other file that is left out: what is wrong with it
    """

    folder: Path
    name: str
    trials: pd.DataFrame
    records: Mapping[int, TrialRecord]
    objectives: tuple[Objective, ...]
    constraints: Mapping[str, Mapping[str, float]]
    searched: tuple[str, ...]
    study: Mapping[str, Any]
    environment: Mapping[str, Any]
    importances: Mapping[str, Mapping[str, float]]
    teacher: Mapping[str, Any]
    unreadable: tuple[str, ...]
    damaged: tuple[str, ...] = ()

    @property
    def finished(self) -> pd.DataFrame:
        """Trials whose objectives were all measured."""
        return self.trials[self.trials["complete"]]

    @property
    def front(self) -> pd.DataFrame:
        """Feasible trials that no other dominates, the smallest file first."""
        return self.trials[self.trials["front"]].sort_values(["size_bytes", "number"])

    @property
    def sweep(self) -> pd.DataFrame:
        """The plain fp32 width sweep, including the widest student."""
        return self.finished[self.finished["baseline"].isin(SWEEP)].sort_values(["size_bytes", "number"])

    @property
    def sweep_name(self) -> str:
        """The sweep's name in the report; one student alone is not called a sweep."""
        return "fp32 width sweep" if len(self.sweep) > 1 else "fp32 student"

    @property
    def named(self) -> pd.DataFrame:
        """Those of the first trials that have a name in the space file."""
        return self.finished[~self.finished["baseline"].isin(["", *BASELINES])]

    @property
    def widest(self) -> pd.Series | None:
        """The widest fp32 student; None if it has no result."""
        rows = self.finished[self.finished["baseline"] == WIDEST_FP32]
        return None if rows.empty else rows.iloc[0]

    @property
    def qualities(self) -> tuple[Objective, ...]:
        """The objectives that score predictions: accuracy and metrics of the task. If all objectives are costs:
        accuracy."""
        return tuple(o for o in self.objectives if o.name not in LOGGED) or (Objective(QUALITY, "maximize"),)

    @property
    def own_front(self) -> bool:
        """Whether the objectives are those of the search; ``harness pick`` chooses from that front."""
        return self.objectives == _objectives(self.study)

    @property
    def quality(self) -> Objective:
        """The first quality. Points are named, picked and compared by it."""
        return self.qualities[0]

    @property
    def chance(self) -> dict[str, float]:
        """Quality name -> the score of always predicting the most frequent class, as far as the study gives it."""
        reference: Any = self.study.get("reference")
        from_reference = (
            {"accuracy": reference["accuracy"]} if isinstance(reference, Mapping) and "accuracy" in reference else {}
        )
        scores = from_reference | dict(_dict(self.study, "chance"))
        return {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}

    @property
    def costs(self) -> list[str]:
        """The x axes of the trade-off figures: size, latency, and any other cost that is an objective."""
        names = dict.fromkeys([*COSTS, *(o.name for o in self.objectives if o.name in LOGGED)])
        return [n for n in names if n in self.trials and self.finished[n].notna().any()]

    @property
    def measured(self) -> list[str]:
        """All quantities that can be limited: those measured in at least one trial."""
        names = dict.fromkeys(name for record in self.records.values() for name in record.measurements)
        return [n for n in names if n in self.trials]

    def best_first(self, rows: pd.DataFrame, *then: str) -> pd.DataFrame:
        """The rows sorted by quality, the best first; ties are sorted by the columns ``then``, ascending."""
        up = self.quality.direction == "minimize"
        return rows.sort_values([self.quality.name, *then], ascending=[up, *(True for _ in then)])


@contextlib.contextmanager
def reading(folder: Path | str) -> Iterator[None]:
    """Turn the errors that a value of the wrong type or range in the study's files causes into one message.

    Raises:
        SpaceError: a value is wrong; the text names the original error, and ``harness -v`` logs its traceback.
        DiskError: the report cannot be written.
    """
    try:
        yield
    except HarnessError:
        raise
    except OSError as error:
        if (disk_failure := disk_error(error)) is not None:
            raise disk_failure from None
        raise SpaceError("", f"cannot be read or written ({error})", file=str(folder)) from None
    except _WRONG as error:
        log.info("%s", folder, exc_info=True)
        cause = printable(f"{type(error).__name__}: {error}")[:300]
        rule = f"its files hold a value of the wrong kind or size ({cause})"
        remedy = "Are they as the search left them? harness -v VERB shows where."
        raise SpaceError("", rule, remedy=remedy, file=str(folder)) from None


def printable(text: str) -> str:
    """``text`` on one line, without control characters."""
    return _CONTROL.sub(" ", text)


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
    chosen = _objectives({"objectives": objectives, "directions": study.get("directions")} if objectives else study)
    constraints = {k: v for k, v in _dict(study, "constraints").items() if isinstance(v, Mapping)}
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
        _objectives(study)
    except (KeyError, TypeError, ValueError, AttributeError):  # of an older version, without a checksum
        wrong = "study.json is damaged: it names no objectives"
    if wrong:
        raise SpaceError("", wrong, file=str(folder), remedy=AGAIN)
    return study


def _dict(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = tree.get(name)
    return section if isinstance(section, Mapping) else {}


def _objectives(study: Mapping[str, Any]) -> tuple[Objective, ...]:
    """The objectives in ``study``: its ``objectives`` are names, or mappings with a name and a direction; its
    ``directions`` are a mapping by name or a list in the same order."""
    entries = study.get("objectives") or [QUALITY, *COSTS]
    if not isinstance(entries, Sequence) or isinstance(entries, str) or len(entries) > MAX_OBJECTIVES + 1:
        raise SpaceError("study.json: objectives", f"must be a list of at most {MAX_OBJECTIVES + 1} names", entries)
    names = [o["name"] if isinstance(o, Mapping) else str(o) for o in entries]
    directions: Any = study.get("directions") or {}
    if isinstance(directions, Sequence) and not isinstance(directions, str):
        directions = dict(zip(names, directions, strict=False))
    direction_of = {
        **DIRECTIONS,
        **{o["name"]: o["direction"] for o in entries if isinstance(o, Mapping) and "direction" in o},
        **{k: v for k, v in directions.items() if v in ("maximize", "minimize")},
    }
    return tuple(Objective(n, direction_of.get(n, "minimize")) for n in names)


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
        _row(record, _dict(test, str(number))) | _continuation(record, after.get(str(number)))
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
