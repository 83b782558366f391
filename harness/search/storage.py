"""Where the study is stored: a journal file in its folder, or any Optuna URL."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from harness.errors import SpaceError
from harness.search.lock import NoLock

JOURNAL = "study.log"


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The journal in ``folder``, or the database at ``url``.

    Raises:
        SpaceError: the database cannot be opened (the password is masked), or the journal is
            damaged in the middle.
    """
    if url is None:
        repair_journal(folder / JOURNAL)
        return JournalStorage(JournalFileBackend(str(folder / JOURNAL), lock_obj=NoLock()))  # pyright: ignore[reportArgumentType]
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:  # SQLAlchemy's and its drivers' many types
        from sqlalchemy.engine import make_url

        try:
            shown = str(make_url(url))
        except Exception:  # not a URL at all
            shown = "not an Optuna URL"
        raise SpaceError(
            "search.storage", f"cannot be opened ({type(error).__name__})", shown, "Example: sqlite:///study.db."
        ) from None


def repair_journal(path: Path) -> None:
    """Cut a torn last line off (it is kept beside); refuse a journal damaged before its end.

    Optuna loads a journal with a torn tail, then writes after it, and can never load it again.
    """
    if not path.exists():
        return
    data = path.read_bytes()
    whole, _, tail = data.rpartition(b"\n")
    body = whole + b"\n" if whole else b""
    lines = body.splitlines()
    while lines and not _is_json(lines[-1]):
        tail = lines.pop() + b"\n" + tail
    for number, line in enumerate(lines, 1):
        if not _is_json(line):
            raise SpaceError(
                "",
                f"line {number} of the study's journal is damaged",
                file=str(path),
                remedy="Run the same command with --rebuild: the index is made again from the trials' records.",
            )
    if tail:
        with open(path.with_suffix(".torn"), "ab") as file:
            file.write(tail)
        with open(path, "r+b") as file:
            file.truncate(sum(len(line) + 1 for line in lines))


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
