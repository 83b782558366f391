"""When each trial was told: ``told.csv``, one line a trial, for curves over time and epochs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from harness.records import write_bytes_durably

NAME = "told.csv"
COLUMNS = ("number", "elapsed_s", "epochs")


class Timeline:
    """Appends to the study's ``told.csv``; a resumed study's clock goes on where it stood.

    A line is written before its trial is told, so that a killed search leaves a line too many rather
    than one too few; opening the file takes that one out.
    """

    def __init__(self, folder: Path):
        self._path, self._before, self._started = folder / NAME, 0.0, time.monotonic()

    def open(self, told: Mapping[int, int]) -> None:
        """Make the file's lines those of the trials that were ``told``: number -> epochs trained."""
        rows = {number: (elapsed, epochs) for number, elapsed, epochs in _whole(self._path) if number in told}
        self._before = max((float(elapsed) for elapsed, _ in rows.values()), default=0.0)
        trained = max((int(epochs) for _, epochs in rows.values() if epochs), default=0)
        for number in sorted(told.keys() - rows.keys()):  # the disk had not taken their lines when the power went
            trained += told[number]
            rows[number] = (f"{self._before:.3f}", str(trained))
        lines = [",".join(COLUMNS), *(f"{number},{elapsed},{epochs}" for number, (elapsed, epochs) in rows.items())]
        write_bytes_durably(self._path, ("\n".join(lines) + "\n").encode())

    def start(self) -> None:
        """The first trial is asked for now."""
        self._started = time.monotonic()

    def add(self, number: int, epochs: int) -> None:
        """Trial ``number`` is about to be told, after ``epochs`` epochs of training in all trials together."""
        elapsed = self._before + time.monotonic() - self._started
        with self._path.open("a") as file:
            file.write(f"{number},{elapsed:.3f},{epochs}\n")


def _whole(path: Path) -> list[tuple[int, str, str]]:
    """The lines that are whole: number, seconds, epochs (older studies have none)."""
    if not path.exists():
        return []
    found: list[tuple[int, str, str]] = []
    for line in path.read_text(errors="replace").split("\n")[:-1]:
        cells = line.split(",")
        try:
            number, elapsed, epochs = int(cells[0]), float(cells[1]), cells[2] and int(cells[2])
        except (ValueError, IndexError):
            continue
        found.append((number, f"{elapsed:.3f}", str(epochs)))
    return found
