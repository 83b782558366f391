"""When each trial was told: ``told.csv``, one line a trial, for curves over time and epochs."""

from __future__ import annotations

import csv
import time
from pathlib import Path

NAME = "told.csv"
COLUMNS = ("number", "elapsed_s", "epochs")


class Timeline:
    """Appends to the study's ``told.csv``; a resumed study's clock goes on where it stood."""

    def __init__(self, folder: Path):
        self._path, self._before, self._started = folder / NAME, 0.0, time.monotonic()
        if self._path.exists():
            rows = list(csv.DictReader(self._path.open()))
            self._before = max((float(r["elapsed_s"]) for r in rows if r.get("elapsed_s")), default=0.0)
        else:
            self._path.write_text(",".join(COLUMNS) + "\n")

    def start(self) -> None:
        """The first trial is asked for now."""
        self._started = time.monotonic()

    def add(self, number: int, epochs: int) -> None:
        """Trial ``number`` was told, after ``epochs`` epochs of training in all trials together."""
        elapsed = self._before + time.monotonic() - self._started
        with self._path.open("a") as file:
            file.write(f"{number},{elapsed:.3f},{epochs}\n")
