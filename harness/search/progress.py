"""Progress output: a live bar on a terminal, otherwise one line per trial."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from harness.records import CONTINUES, TrialRecord

STEP_S = 5.0  # between two lines about one step


class Progress:
    """Context manager around the bar; prints nothing if ``shown`` is False."""

    def __init__(self, name: str, total: int | None, shown: bool):
        self._console = Console(stderr=True, quiet=not shown, highlight=False)
        self._total, self._started = total, time.monotonic()
        self._live = self._console.is_terminal and shown
        self._bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._bar.add_task(name, total=total, detail="")
        self._front, self._volume, self._first = 0, 0.0, 0
        self._stepped = time.monotonic()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def step(self, text: str) -> None:
        """Show how far a long step is: beside the bar, or as a line every few seconds."""
        if self._live:
            self._bar.update(self._task, detail=text)
        elif time.monotonic() - self._stepped >= STEP_S:
            self._stepped = time.monotonic()
            self.say(text)

    def update(self, finished: int, failed: int, front: int, volume: float) -> None:
        """Show the counters; the time left follows from the pace since the first update."""
        if not self._first:
            self._first, self._started = finished or 1, time.monotonic()
        self._front, self._volume = front, volume
        newly_finished = finished - self._first
        pace = (time.monotonic() - self._started) / newly_finished if newly_finished > 0 else 0.0
        time_left = f", {pace * max(0, self._total - finished):.0f} s left" if pace and self._total else ""
        detail = f"failed {failed}, front {front}, hypervolume {volume:.3f}{time_left}"
        self._bar.update(self._task, completed=finished, detail=detail)

    def trial(self, record: TrialRecord, on_front: bool) -> None:
        """Print one line for a finished trial, unless there is a live bar."""
        if self._live:
            return
        before = record.diagnostics.get(CONTINUES)
        resumption = "" if before is None else f"resumes trial {before}"
        if record.status != "ok":
            reason = record.reason.splitlines()[0][:160] if record.reason else ""
            self.say(f"trial {record.number:4d} {record.status}: {reason} {resumption}".rstrip())
            return
        values = " ".join(f"{name} {m.median:.6g}" for name, m in sorted(record.measurements.items()))
        marks = " ".join(m for m in (record.baseline, resumption, "front" if on_front else "") if m)
        self.say(f"trial {record.number:4d} {values} {record.duration_s:.1f} s {marks}".rstrip())
