"""A study as one table, and what its columns and objectives are (:mod:`harness.report.loading` reads its folder)."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import HarnessError, SpaceError, disk_error
from harness.records import (
    BASELINES,
    DIRECTIONS,
    WIDEST_FP32,
    WIDTH_SWEEP,
    TrialRecord,
)
from harness.space.settings import MAX_OBJECTIVES, Objective
from harness.stats.pareto import LOGGED

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

    def accuracy_n(self, number: int) -> float | None:
        """Number of validation samples behind a trial's accuracy; None if it is not known."""
        measured = self.records[number].measurements.get("accuracy")
        return measured.conditions.get("n") if measured else None

    @property
    def own_front(self) -> bool:
        """Whether the objectives are those of the search; ``harness pick`` chooses from that front."""
        return self.objectives == objectives_of(self.study)

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
        scores = from_reference | dict(section(self.study, "chance"))
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


def section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The mapping under ``name`` in a file's content; empty if there is something else."""
    content = tree.get(name)
    return content if isinstance(content, Mapping) else {}


def objectives_of(study: Mapping[str, Any]) -> tuple[Objective, ...]:
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
