"""The errors a user can meet. Text = where, rule, value got, remedy."""

from __future__ import annotations

import errno
from enum import Enum
from typing import Any


class _Unset(Enum):
    UNSET = "unset"  # an enum stays itself when an error is pickled between processes


_SHOWN = 500  # characters of a value in a message


class HarnessError(Exception):
    """Something the user can act on; the message says how."""


class SpaceError(HarnessError):
    """A mistake in the user's file or request. The command line ends with exit code 2.

    path   dotted name inside the file, e.g. ``prune.ratio`` (empty for the whole file)
    rule   what must hold, as a sentence fragment
    got    the value found, shown with ``repr`` (omitted when left at ``UNSET``)
    remedy what to write instead
    file, line  filled in by the reader of the file, which knows them
    """

    UNSET: Any = _Unset.UNSET

    def __init__(
        self, path: str, rule: str, got: Any = UNSET, remedy: str = "", file: str = "", line: int | None = None
    ):
        self.path, self.rule, self.got, self.remedy = path, rule, got, remedy
        self.file, self.line = file, line
        super().__init__(path, rule)

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line is not None else self.file
        parts = [p for p in (where, self.path) if p]
        text = ": ".join([*parts, self.rule])
        if self.got is not SpaceError.UNSET:
            got = repr(self.got)
            text += f", but got {got if len(got) <= _SHOWN else got[:_SHOWN] + ' ...'}"
        return f"{text}. {self.remedy}".rstrip() if self.remedy else f"{text}."


class DiskError(HarnessError):
    """The disk takes nothing: full, read-only or broken. The search ends; what finished is kept."""


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
DENIED = (errno.EACCES, errno.EPERM)


def disk_error(error: object, denied: bool = False) -> DiskError | None:
    """``error`` in words where it is the system's about a disk (``denied``: or about permissions), else None."""
    if not isinstance(error, OSError) or error.errno not in (DISK + DENIED if denied else DISK):
        return None
    where = f"{error.filename}: " if error.filename else ""
    return DiskError(f"{where}{error.strerror}")


class TrialError(HarnessError):
    """A trial that cannot go on. It is recorded with its reason; the study goes on."""
