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
    whole, torn_at = 0, 0  # bytes of whole lines; number of the first line that is not one
    with open(path, "rb") as file:  # line by line: the journal of 10,000 trials is tens of megabytes
        for number, line in enumerate(file, 1):
            if not (line.endswith(b"\n") and _is_json(line)):
                torn_at = torn_at or number
            elif torn_at:
                raise SpaceError(
                    "",
                    f"line {torn_at} of the study's journal is damaged",
                    file=str(path),
                    remedy="Run the same command with --rebuild: the index is made again from the trials' records.",
                )
            else:
                whole += len(line)
    if torn_at:
        with open(path, "r+b") as file, open(path.with_suffix(".torn"), "ab") as beside:
            file.seek(whole)
            beside.write(file.read())
            file.truncate(whole)


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
