"""Where the study is stored: a journal file in its folder, or any Optuna URL."""

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
NAMED = ("user_attr", "system_attr")  # of a journal's entry: dictionaries of names


class Journal(BaseJournalBackend):
    """Optuna's journal file (one JSON object a line, as its ``JournalFileBackend`` reads and writes it)
    for one writer, which the run lock sees to: Optuna's own lock goes stale on SIGKILL and blocks for 30 s.

    Each line ends with a key ``crc32``, the checksum of what stands before it, which Optuna ignores; lines of older
    versions, and those that Optuna's tools write, have none. Only where the last read ended is remembered, and equal
    names are one string: at 10,000 trials Optuna's offsets of every line are 20 MB."""

    def __init__(self, path: Path):
        self._path = path
        self.read, self._offset = 0, 0  # entries read, and the bytes that they are
        path.touch()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        number, offset = (self.read, self._offset) if log_number_from >= self.read else (0, 0)
        with open(self._path, "rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # somebody else's search is writing it
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
        left = memoryview(text.encode())
        with open(self._path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                while left:
                    left = left[file.write(left) :]
                if any("param_name" not in log for log in logs):  # parameters go to the disk with what follows them
                    os.fsync(file.fileno())
            except OSError:  # a full disk takes half a line, after which no other may follow
                file.truncate(end)
                raise


def _shared(log: dict[str, Any]) -> dict[str, Any]:
    """The entry with its names interned."""
    if "param_name" in log:
        log["param_name"] = sys.intern(log["param_name"])
    for kind in NAMED:
        if kind in log:
            log[kind] = {sys.intern(name): value for name, value in log[kind].items()}
    return log


def open_storage(url: str | None, folder: Path, give_up: Callable[[], bool] = lambda: False) -> BaseStorage:
    """The journal in ``folder``, or the database at ``url``, in which ``${NAME}`` is an environment variable
    (``give_up``: asked while it does not answer).

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
            # Optuna's own errors, of a line without a checksum
            raise _damaged(folder / JOURNAL, journal.read) from None
    from harness.search.database import open_database

    return open_database(url, give_up)


def repair_journal(path: Path) -> None:
    """Cut a torn last line off (it is kept beside); refuse a journal damaged before its end.

    Optuna loads a journal with a torn tail, then writes after it, and can never load it again.
    """
    if not path.exists():
        return
    whole, torn_at, number, line = 0, 0, 0, b""  # bytes of whole lines; number of the first line that is not one
    with open(path, "rb") as file:  # line by line: the journal of 10,000 trials is tens of megabytes
        for number, line in enumerate(file, 1):
            if not (line.startswith(b"{") and line.endswith(b"}\n")):
                torn_at = torn_at or number
            elif torn_at:
                raise _damaged(path, torn_at)
            else:
                whole += len(line)
    if not torn_at and line and not _is_json(line):  # the others are read as JSON once, when Optuna asks for them
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
        remedy="Run the same command with --rebuild: the index is made again from the trials' records.",
    )


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
