"""The errors a user can meet. Text = where, rule, value got, remedy."""

from __future__ import annotations

import errno
import re
from enum import Enum
from typing import Any


class _Unset(Enum):
    UNSET = "unset"  # an enum stays itself when an error is pickled between processes


SHOWN = 500  # characters of a value in a message


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
            text += f", but got {got if len(got) <= SHOWN else got[:SHOWN] + ' ...'}"
        return cut(f"{text}. {self.remedy}".rstrip() if self.remedy else f"{text}.", MAX_MESSAGE)


MAKE_ROOM = "Make room or give the right to write, then give the same command again."


class DiskError(HarnessError):
    """The disk takes nothing: full, read-only or broken. The search ends; what finished is kept."""

    def __str__(self) -> str:
        return f"{self.args[0]}. {MAKE_ROOM}"


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


MAX_REASON = 2000  # characters of a reason, however long the text of the error is
MAX_MESSAGE = 20_000  # of a message that may hold a list
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_DEVICE = re.compile(r"CUDA error|device-side assert|CUDNN_STATUS|CUBLAS_STATUS|AcceleratorError|CudaError")


class DeviceError(HarnessError):
    """A process whose GPU is in an error that stays. The process is never used again."""


def without_colors(text: str) -> str:
    """``text`` without what a terminal takes as colors; torch's exporter writes some into its errors."""
    return _COLORS.sub("", text)


def cut(text: str, limit: int = MAX_REASON) -> str:
    """``text``, or its beginning and its end where it is longer than ``limit`` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2 - 20
    return f"{text[:half]} [... {len(text)} characters ...] {text[-half:]}"


def reason_of(error: BaseException) -> str:
    """What a record says of ``error``: its text, cut to MAX_REASON; its type before it where it is not ours;
    ``oom: `` or ``device: `` first where memory ran out or the GPU is in an error that stays."""
    try:
        text = without_colors(str(error))
    except Exception as broken:  # of a user's own exception
        text = f"(its text cannot be had: {type(broken).__name__})"
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OutOfMemoryError" in names or isinstance(error, MemoryError):
        return cut(f"oom: {text}")
    text = cut(text if isinstance(error, HarnessError) else f"{type(error).__name__}: {text}")
    return f"device: {text}" if is_device_error(error) else text


def is_device_error(error: BaseException | None) -> bool:
    """Whether ``error``, or what it came from, is a CUDA error other than a full memory: by its type's name
    (:class:`torch.AcceleratorError`) or its text."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        names = {kind.__name__ for kind in type(error).__mro__}
        if "OutOfMemoryError" not in names:
            if isinstance(error, DeviceError) or "AcceleratorError" in names:
                return True
            if isinstance(error, RuntimeError | HarnessError) and _DEVICE.search(cut(str(error))):
                return True
        error = error.__cause__ or error.__context__
    return False
