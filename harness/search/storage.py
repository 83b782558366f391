"""Storage of the study: a journal file in its folder, or a database at an Optuna URL."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend

from harness.errors import SpaceError
from harness.files.checksums import sealed_entry, unsealed_entry

JOURNAL = "study.log"
NAMED = ("user_attr", "system_attr")  # parts of a journal entry that are dictionaries


class Journal(BaseJournalBackend):
    """Optuna's journal file for a single writer: one JSON object per line, in the format of ``JournalFileBackend``.

    The run lock guarantees the single writer. Optuna's own lock goes stale on SIGKILL and then blocks for 30 s.

    Each line ends with a key ``crc32``, the checksum of the line before that key. Optuna ignores it. Lines of older
    versions and of Optuna's tools have none. To save memory, only the offset where the last read ended is kept, and
    equal names are interned: Optuna's offsets of all lines take 20 MB at 10,000 trials.
    """

    def __init__(self, path: Path):
        self._path = path
        self.read, self._offset = 0, 0  # entries read, and their length in bytes
        path.touch()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        number, offset = (self.read, self._offset) if log_number_from >= self.read else (0, 0)
        with open(self._path, "rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # another process is still writing it
                number, offset = number + 1, offset + len(line)
                self.read, self._offset = number, offset
                if number > log_number_from:
                    yield _shared(self._entry(line, number))

    def _entry(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            return unsealed_entry(line)
        except ValueError:
            raise _damaged(self._path, number) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(sealed_entry(log) for log in logs)
        remaining = memoryview(text.encode())
        with open(self._path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                while remaining:
                    remaining = remaining[file.write(remaining) :]
                if any("param_name" not in log for log in logs):  # parameters: synced with a later entry
                    os.fsync(file.fileno())
            except OSError:  # a full disk may leave half a line, which no line may follow
                file.truncate(end)
                raise


def _shared(log: dict[str, Any]) -> dict[str, Any]:
    """Intern the names in an entry."""
    if "param_name" in log:
        log["param_name"] = sys.intern(log["param_name"])
    for kind in NAMED:
        if kind in log:
            log[kind] = {sys.intern(name): value for name, value in log[kind].items()}
    return log


def open_storage(url: str | None, folder: Path, give_up: Callable[[], bool] = lambda: False) -> BaseStorage:
    """The journal in ``folder``, or the database at ``url``.

    Args:
        url: Optuna URL, in which ``${NAME}`` stands for an environment variable; None for the journal.
        give_up: called while the database does not answer; True ends the wait.
    Raises:
        SpaceError: the database cannot be opened (the password is masked), or the journal is
            damaged in the middle.
    """
    if url is None:
        repair_journal(folder / JOURNAL)
        journal = Journal(folder / JOURNAL)
        try:
            return JournalStorage(journal)
        except (
            AssertionError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ):
            # raised by Optuna for a damaged line without a checksum
            raise _damaged(folder / JOURNAL, journal.read) from None
    from harness.search.database import open_database

    return open_database(url, give_up)


def repair_journal(path: Path) -> None:
    """Move an incomplete last line to ``study.torn``; refuse a journal that is damaged before its end.

    Optuna loads a journal with an incomplete last line, appends to it, and cannot load it afterwards.

    Raises:
        SpaceError: a line before the last is damaged.
    """
    if not path.exists():
        return
    whole, torn_at, number, line = 0, 0, 0, b""  # bytes of complete lines; number of the first incomplete line
    with open(path, "rb") as file:  # line by line, since the journal of 10,000 trials has tens of megabytes
        for number, line in enumerate(file, 1):
            if not (line.startswith(b"{") and line.endswith(b"}\n")):
                torn_at = torn_at or number
            elif torn_at:
                raise _damaged(path, torn_at)
            else:
                whole += len(line)
    if not torn_at and line and not _is_json(line):  # the other lines are parsed once, when Optuna reads them
        torn_at, whole = number, whole - len(line)
    if torn_at:
        with open(path, "r+b") as file, open(path.with_suffix(".torn"), "ab") as beside:
            file.seek(whole)
            beside.write(file.read())
            file.truncate(whole)


def _damaged(path: Path, line: int) -> SpaceError:
    return SpaceError(
        "",
        f"line {line} of the study's journal is damaged",
        file=str(path),
        remedy="Run the same command with --rebuild: the index is rebuilt from the trials' records.",
    )


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
