"""A shim that counts the file operations below a folder and strikes at one of them."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from pathlib import Path
from typing import Any

MODES = {
    "kill": "SIGKILL before the operation",
    "torn": "half of the bytes are written, then SIGKILL",
    "full": "from here on nothing is created and nothing grows: ENOSPC",
    "readonly": "from here on every operation fails: EROFS",
    "stop": "SIGINT before the operation, as Ctrl-C sends it",
    "twice": "SIGINT twice",
}


class Disk:
    """Counts the operations on files below ``root`` and strikes at the ``at``-th one."""

    def __init__(self, root: Path, mode: str = "", at: int = 0):
        self._root, self._mode, self._at = f"{root}{os.sep}", mode, at
        self.names: list[str] = []

    def about_to(self, name: str, path: Any, grows: bool = True) -> bool:
        """Count one operation; True where a write shall be torn."""
        if not f"{os.path.abspath(os.fspath(path))}{os.sep}".startswith(self._root):
            return False
        self.names.append(name)
        if len(self.names) == self._at and (self._mode == "kill" or (self._mode == "torn" and name != "write")):
            os.kill(os.getpid(), signal.SIGKILL)
        if len(self.names) == self._at and self._mode in ("stop", "twice"):
            for _ in range(2 if self._mode == "twice" else 1):
                os.kill(os.getpid(), signal.SIGINT)
        if self._at and len(self.names) >= self._at:
            if self._mode == "full" and grows and name != "write":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            if self._mode == "readonly":
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return name == "write" and self._mode in ("torn", "full")
        return False

    def strike(self, path: Any) -> None:
        """The end of a torn write."""
        if self._mode == "torn":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def install(self) -> None:
        _patch_open(self)
        for name, grows in {
            "replace": False,
            "rename": False,
            "unlink": False,
            "remove": False,
            "rmdir": False,
            "mkdir": True,
            "truncate": False,
        }.items():
            _patch(self, name, grows)
        real_fsync, real_open = os.fsync, os.open

        def fsync(fd: int) -> None:
            self.about_to("fsync", os.readlink(f"/proc/self/fd/{fd}"), grows=False)
            real_fsync(fd)

        def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.about_to("open", path)
            return real_open(path, flags, *rest, **named)

        os.fsync, os.open = fsync, opened


class _Raw(io.FileIO):
    """A file whose every write(2) is counted."""

    disk: Disk

    def write(self, data: Any) -> int:
        if self.disk.about_to("write", self.name):
            super().write(memoryview(data)[: len(data) // 2])
            self.disk.strike(self.name)
        return super().write(data) or 0

    def truncate(self, size: int | None = None) -> int:
        self.disk.about_to("truncate", self.name, grows=False)
        return super().truncate(size)


def _patch(disk: Disk, name: str, grows: bool) -> None:
    real = getattr(os, name)

    def patched(path: Any, *rest: Any, **named: Any) -> Any:
        if "dir_fd" not in named or named["dir_fd"] is None:
            disk.about_to(name, path, grows)
        return real(path, *rest, **named)

    setattr(os, name, patched)


def _patch_open(disk: Disk) -> None:
    real = builtins.open

    def opened(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: Any = None,
        errors: Any = None,
        *rest: Any,
        **named: Any,
    ) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+") or named.get("opener"):  # which opens by os.open
            return real(file, mode, buffering, encoding, errors, *rest, **named)
        disk.about_to("open", file, grows=not os.path.exists(file))
        raw = _Raw(os.fspath(file), mode.replace("b", "").replace("t", ""))
        raw.disk = disk
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors)

    builtins.open = io.open = opened
