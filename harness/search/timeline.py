"""When each trial was told: ``told.csv``, one line per trial, for plots over time and epochs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from harness.files.access import write_bytes_durably
from harness.files.checksums import sealed
from harness.records import TOLD, TOLD_COLUMNS, read_told

log = logging.getLogger(__name__)


class Timeline:
    """Appends to the study's ``told.csv``. In a resumed study the clock continues from the last line.

    A line is written before its trial is told. A killed search may therefore leave one line too many, never one too
    few; :meth:`open` removes it.
    """

    def __init__(self, folder: Path):
        self._path, self._before, self._started = folder / TOLD, 0.0, time.monotonic()

    def open(self, told: Mapping[int, int]) -> None:
        """Rewrite the file with exactly the trials in ``told``: number -> epochs trained."""
        whole, damaged = read_told(self._path)
        if damaged:
            places = ", ".join(map(str, damaged))
            log.warning("%s: line %s is damaged: its trial is put at the end of the timeline", self._path, places)
        rows = {number: (elapsed, epochs) for number, elapsed, epochs in whole if number in told}
        self._before = max((float(elapsed) for elapsed, _ in rows.values()), default=0.0)
        trained = max((int(epochs) for _, epochs in rows.values() if epochs), default=0)
        for number in sorted(told.keys() - rows.keys()):  # their lines were lost or damaged
            trained = max(trained, min(trained + told[number], sum(told.values())))
            rows[number] = (f"{self._before:.3f}", str(trained))
        lines = [
            ",".join(TOLD_COLUMNS),
            *(sealed(f"{number},{elapsed},{epochs}") for number, (elapsed, epochs) in rows.items()),
        ]
        write_bytes_durably(self._path, ("\n".join(lines) + "\n").encode())

    def start(self) -> None:
        """Start the clock. Called before the first trial is asked for."""
        self._started = time.monotonic()

    def add(self, number: int, epochs: int) -> None:
        """Add a line for trial ``number``, which is about to be told. ``epochs``: trained so far by all trials."""
        elapsed = self._before + time.monotonic() - self._started
        with self._path.open("a") as file:
            file.write(sealed(f"{number},{elapsed:.3f},{epochs}") + "\n")
