"""Hands the trials of a search to its trackers, in a thread of their own, so that a slow tracker does not slow trials.

An error of a tracker is reported once; it then gets no more trials, and the search goes on.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from harness.errors import SpaceError, reason_of
from harness.methods import load_target, nearest
from harness.recipe import flatten
from harness.records import TrialRecord, read_history, trial_folder
from harness.trackers import TRACKERS
from harness.trackers.tracker import TrackedTrial, Tracker

log = logging.getLogger(__name__)
GROUP = "harness.trackers"
CLOSE_S = 60.0  # how long the end of a search waits for trackers


def known_trackers(names: Sequence[str]) -> dict[str, Callable[[], Callable[[str, Path], Tracker]]]:
    """Name -> a function that imports the tracker's class.

    Raises:
        SpaceError: a name is unknown.
    """
    known = {point.name: point.load for point in entry_points(group=GROUP)}
    known |= {name: partial(load_target, target) for name, target in TRACKERS.items()}
    for name in names:
        if name not in known:
            raise SpaceError("track", "no installed package has a tracker of that name", name, nearest(name, known))
    return {name: known[name] for name in names}


def open_trackers(names: Sequence[str], folder: Path) -> dict[str, Tracker]:
    """The trackers of these names.

    Raises:
        SpaceError: a name is unknown, or its tracker does not start, for example because its package is missing.
    """
    trackers: dict[str, Tracker] = {}
    for name, load in known_trackers(names).items():
        try:
            trackers[name] = load()(folder.name, folder)
        except ImportError as error:
            remedy = f"Install it: pip install 'harness-search[{name}]', or the package itself."
            raise SpaceError("track", f"{name!r} needs a package ({error})", remedy=remedy) from error
        except (Exception, SystemExit) as error:  # a tracker may raise anything
            raise SpaceError("track", f"{name!r} does not start ({reason_of(error)})") from error
    return trackers


class Tracking:
    """Context manager around the trackers' thread; without trackers it does nothing."""

    def __init__(
        self, trackers: Mapping[str, Tracker] | None = None, searched: Collection[str] = (), folder: Path = Path()
    ):
        self._trackers, self._folder = dict(trackers or {}), folder
        self._searched = searched  # dotted names of holes
        self._waiting: queue.Queue[TrackedTrial | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="trackers")
        self.status = "interrupted"  # how the search ends
        self._busy = ""  # name of the tracker that works

    def __enter__(self) -> Tracking:
        if self._trackers:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if not self._trackers:
            return
        self._waiting.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            waiting = self._waiting.qsize()
            log.warning("tracker %s did not end within %g s; %d trials are not logged", self._busy, CLOSE_S, waiting)

    def trial(self, record: TrialRecord, on_front: bool) -> None:
        """Log a trial soon."""
        if self._trackers:
            self._waiting.put(self._tracked(record, on_front))

    def _tracked(self, record: TrialRecord, on_front: bool) -> TrackedTrial:
        folder, recipe = trial_folder(self._folder, record.number), dict(flatten(record.recipe))
        return TrackedTrial(
            number=record.number,
            status=record.status,
            reason=record.reason,
            baseline=record.baseline,
            recipe=recipe,
            params={name: value for name, value in recipe.items() if self._is_searched(name)},
            metrics={name: m.median for name, m in record.measurements.items() if math.isfinite(m.median)},
            curve=_curve(folder / "history.csv"),
            file=record.file(folder) if record.artifact is not None else None,
            on_front=on_front,
        )

    def _is_searched(self, name: str) -> bool:
        """Whether a leaf, or a section that contains it, is a hole of the space."""
        parts = name.split(".")
        return any(".".join(parts[: i + 1]) in self._searched for i in range(len(parts)))

    def _work(self) -> None:
        while (trial := self._waiting.get()) is not None:
            self._each("trial", trial)
        self._each("close", self.status)

    def _each(self, method: str, argument: Any) -> None:
        for name, tracker in list(self._trackers.items()):
            self._busy = name
            try:
                getattr(tracker, method)(deepcopy(argument))  # each may change what it gets
            except BaseException as error:  # a tracker may raise anything, here in a thread of its own
                log.warning("tracker %s: %s; it logs no more", name, reason_of(error))
                del self._trackers[name]


def _curve(history: Path) -> list[dict[str, float]]:
    """The finite values of each epoch; none if there is no history."""
    rows = [row for row in read_history(history) if "epoch" in row]
    return [{name: value for name, value in row.items() if math.isfinite(value)} for row in rows]
