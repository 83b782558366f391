"""The errors that a user can cause. Their text: where, rule, value got, remedy."""

from __future__ import annotations

import errno
import re
from enum import Enum
from typing import Any


class _Unset(Enum):
    UNSET = "unset"  # an enum, because its identity survives pickling between processes


SHOWN = 500  # characters of a value in a message


class HarnessError(Exception):
    """An error that the user can act on; the message says how."""


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
    """The disk cannot be written: it is full, read-only or broken. The search ends; finished trials are kept."""

    def __str__(self) -> str:
        return f"{self.args[0]}. {MAKE_ROOM}"


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
DENIED = (errno.EACCES, errno.EPERM)


def disk_error(error: object, denied: bool = False) -> DiskError | None:
    """``error`` as a :class:`DiskError` if it is the system's error about a disk (with ``denied``, also about
    permissions); otherwise None."""
    if not isinstance(error, OSError) or error.errno not in (DISK + DENIED if denied else DISK):
        return None
    where = f"{error.filename}: " if error.filename else ""
    return DiskError(f"{where}{error.strerror}")


class TrialError(HarnessError):
    """A trial fails. It is recorded with its reason, and the study continues."""


MAX_REASON = 2000  # characters; a longer reason is cut
MAX_MESSAGE = 20_000  # characters; more than a reason, because a message may contain a list
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_DEVICE = re.compile(r"CUDA error|device-side assert|CUDNN_STATUS|CUBLAS_STATUS|AcceleratorError|CudaError")


class DeviceError(HarnessError):
    """The GPU of a process has a persistent error. The process is not used again."""


def without_colors(text: str) -> str:
    """``text`` without terminal color codes; torch's exporter writes some into its errors."""
    return _COLORS.sub("", text)


def cut(text: str, limit: int = MAX_REASON) -> str:
    """``text``; if it is longer than ``limit`` characters, only its beginning and end."""
    if len(text) <= limit:
        return text
    half = limit // 2 - 20
    return f"{text[:half]} [... {len(text)} characters ...] {text[-half:]}"


def reason_of(error: BaseException) -> str:
    """The text of ``error`` for a record, cut to MAX_REASON.

    It starts with ``oom: `` if memory ran out, with ``device: `` if the GPU has a persistent error. The type is
    included unless it is a :class:`HarnessError`.
    """
    try:
        text = without_colors(str(error))
    except Exception as broken:  # a user's exception may have a broken __str__
        text = f"(its text cannot be had: {type(broken).__name__})"
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OutOfMemoryError" in names or isinstance(error, MemoryError):
        return cut(f"oom: {text}")
    text = cut(text if isinstance(error, HarnessError) else f"{type(error).__name__}: {text}")
    return f"device: {text}" if is_device_error(error) else text


def is_device_error(error: BaseException | None) -> bool:
    """Whether ``error``, or one of its causes, is a CUDA error other than out-of-memory, judged by its type's name
    (:class:`torch.AcceleratorError`) or its text."""
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        names = {kind.__name__ for kind in type(error).__mro__}
        if "OutOfMemoryError" not in names:
            if isinstance(error, DeviceError) or "AcceleratorError" in names:
                return True
            if isinstance(error, RuntimeError | HarnessError) and _DEVICE.search(cut(str(error))):
                return True
        error = error.__cause__ or error.__context__
    return False
