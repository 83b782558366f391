"""A study in Python: search one, open one, look at its points, choose one, verify it."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SpaceError
from harness.space.space import Space, load_space

if TYPE_CHECKING:
    import pandas as pd

    from harness.report.picks import Pick
    from harness.report.study_data import StudyData
    from harness.search.driver import Outcome
    from harness.search.plan import Plan
    from harness.space.settings import Objective
    from harness.verify.check import Claim
    from harness.verify.confirmation import Confirmation


@dataclass
class Study:
    """A study's folder as it was when it was opened; :func:`open_study` reads it again.

    outcome  how the search ended; None if the study was opened and not searched
    """

    folder: Path
    outcome: Outcome | None = None
    _objectives: Sequence[str] | None = field(default=None, repr=False)

    @cached_property
    def data(self) -> StudyData:
        """All that the report reads."""
        from harness.report.loading import load_study
        from harness.report.study_data import reading

        with reading(self.folder):
            return load_study(self.folder, self._objectives)

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial, indexed by number (:class:`harness.report.study_data.StudyData` names the columns)."""
        return self.data.trials

    @property
    def front(self) -> pd.DataFrame:
        """The rows of the Pareto front, the smallest file first."""
        return self.data.front

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Name and direction of each objective."""
        return self.data.objectives

    def pick(self, most: Mapping[str, float] | None = None, least: Mapping[str, float] | None = None) -> Pick:
        """The best point of the front within limits.

        Args:
            most: measured quantity -> its highest allowed value: ``{"latency_ms": 2, "size_bytes": 50_000}``.
            least: measured quantity -> its lowest allowed value: ``{"accuracy": 0.95}``.
        Raises:
            SpaceError: a quantity is unknown, or no point is within the limits; the message names the nearest point.
        """
        from harness.report.picks import pick
        from harness.report.study_data import reading

        with reading(self.folder):
            return pick(self.data, most, least)

    def report(self) -> Path:
        """Write the report and the named recipes. Return the path of the page."""
        from harness.report.page import write_report
        from harness.report.study_data import reading

        with reading(self.folder):
            return write_report(self.data)

    def confirm(self, seeds: int = 3, **options: Any) -> Confirmation:
        """Train the likely front on new seeds, and time its files side by side.

        ``options`` are those of :func:`harness.verify.confirm.confirm`: ``most=10``, ``trusted=True``, ...
        """
        from harness.verify.confirm import confirm

        return confirm(self.folder, seeds, **options)

    def check(self, **options: Any) -> list[Claim]:
        """Measure the files of the front again on this machine; a claim says whether a number of the study holds.

        ``options`` are those of :func:`harness.verify.check.check`: ``seconds=1``, ``trusted=True``, ...
        """
        from harness.verify.check import check

        return check(self.folder, **options)

    def _repr_html_(self) -> str:
        """The front as a table, for notebooks. The study may come from somebody else, so its texts are escaped."""
        names = dict.fromkeys([*(o.name for o in self.objectives), "test_accuracy", "size_bytes", "latency_ms"])
        shown = self.front[[*names, *self.data.searched]]
        head = f"{html.escape(self.data.name)}: front of {len(self.data.finished)} finished trials"
        return f"<p>{head}</p>{shown.to_html()}"


def open_study(folder: str | Path, objectives: Sequence[str] | None = None) -> Study:
    """Read the study in ``folder``, such as ``results/digits``. No code that the study names runs.

    Args:
        objectives: measured quantities that replace the objectives of the search.
    Raises:
        SpaceError: the folder holds no study, or no trial has a value of one of ``objectives``.
    """
    study = Study(Path(folder), None, objectives)
    _ = study.data  # a mistake is reported now
    return study


def search(
    space: Space | Mapping[str, Any] | str | Path,
    folder: str | Path | None = None,
    *,
    trials: int | None = None,
    time_s: float | None = None,
    epochs_total: int | None = None,
    stop: str | None = None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    warm_start: str | Path | None = None,
    rebuild: bool = False,
    progress: bool = True,
) -> Study:
    """Search ``space`` and return the study. The same call again continues an interrupted one.

    Args:
        space: a loaded space, or what :func:`load_space` reads: a YAML file or a dict of its sections.
        folder: of the study (default: ``results/NAME`` for a file ``NAME.yaml``).
        trials, time_s, epochs_total: the budget; each replaces the space's (``search.trials`` and so on).
        stop: early stopping, replaces ``search.stop``: ``none``, ``dominated`` or ``moasha``.
        overrides: further assignments as in ``harness search --set``, such as ``train.epochs=5``.
        address: an existing Ray cluster, HOST:PORT or ``auto``; None starts Ray on this machine.
        warm_start: folder of an earlier study; the points of its front are tried first.
        rebuild: rebuild the study's index from the trials' records.
        progress: show a bar on a terminal, else a line per trial, on standard error.
    Raises:
        SpaceError: a mistake in the space or in an argument. No trial has run.
        HarnessError: the search could not go on. Finished trials are kept; the same call continues.
    """
    settings = {"trials": trials, "time_s": time_s, "epochs_total": epochs_total, "stop": stop}
    changes = [*overrides, *(f"search.{name}={value}" for name, value in settings.items() if value is not None)]
    space = space.changed(changes) if isinstance(space, Space) else load_space(space, overrides=changes)
    from harness.search import driver

    where = Path(folder) if folder is not None else _usual_folder(space)
    earlier = None if warm_start is None else Path(warm_start)
    outcome = driver.search(space, where, address=address, progress=progress, rebuild=rebuild, warm_start=earlier)
    return Study(where, outcome)


def plan(
    space: Space | Mapping[str, Any] | str | Path,
    folder: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """What a search of ``space`` would do, and about how long it would take.

    The space, its data, networks and code are checked as by a search. Nothing is written, and Ray is not started.

    Args:
        space, folder, overrides: as of :func:`search`.
        say: called with a line of text for each step.
    Raises:
        SpaceError: a mistake in the space, or ``folder`` holds a study of another space.
    """
    loaded = space.changed(overrides) if isinstance(space, Space) else load_space(space, overrides=overrides)
    from harness.search.plan import plan as make

    return make(loaded, None if folder is None else Path(folder), say)


def _usual_folder(space: Space) -> Path:
    """``results/NAME`` of a space from ``NAME.yaml``.

    Raises:
        SpaceError: the space was made from a dict, so it has no name.
    """
    if not space.file:
        raise SpaceError("folder", "is needed for a space that was made from a dict", remedy="Example: results/mine.")
    return Path("results") / Path(space.file).stem
