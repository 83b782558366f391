"""Reading and writing files that may come from somebody else: regular files of a bounded size, inside one folder.

A study's folder can hold anything: symbolic links out of it, FIFOs and devices that never end, files of
gigabytes. Nothing here follows a link below ``root``, waits for a FIFO, or reads more than a stated size.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from pathlib import Path
from typing import Any

from harness.errors import SpaceError

JSON_BYTES = 16 << 20  # of a record, study.json and their like
TABLE_BYTES = 64 << 20  # of a CSV file, and of the cache of latencies
MODEL_BYTES = 2**31  # of an ONNX or packed file: what protobuf can hold
MAX_DEPTH = 100  # of nested lists and objects in JSON
_MAY_BREAK = re.compile(rb"\\u[dD]|\d{300}|[\d.][eE]\+?\d{3,}(?=[\s,\]}])")
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


class FileMistake(SpaceError):
    """A file that is not read or written, and why: its kind, place, size or content."""

    def __init__(self, path: Path, rule: str, remedy: str = ""):
        super().__init__("", rule, remedy=remedy, file=str(path))


def read_bytes(path: Path, limit: int, root: Path | None = None) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Args:
        root: a folder that ``path`` lies in; below it no symbolic link is followed. None: the user named
            ``path``, and links on the way to it are followed.
    Raises:
        FileNotFoundError: there is no such file.
        FileMistake: it is another kind of file, too large, outside ``root``, or cannot be read.
    """
    check_way(path, root)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if root is None else os.O_NOFOLLOW)
    try:
        _check_kind(path, os.stat(path, follow_symlinks=root is None))
        with open(os.open(path, flags), "rb") as file:
            found = os.fstat(file.fileno())
            _check_kind(path, found)
            data = b"" if found.st_size > limit else file.read(found.st_size + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise FileMistake(path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if max(found.st_size, len(data)) > limit:  # it may have grown meanwhile
        raise FileMistake(path, f"must be at most {limit:,} bytes")
    return data


def read_object(path: Path, root: Path | None = None, limit: int = JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file (see :func:`parse_object`).

    Raises:
        FileNotFoundError: there is no such file.
        FileMistake: as :func:`read_bytes`, or it holds no such object.
    """
    return parse_object(path, read_bytes(path, limit, root))


def parse_object(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``, read from ``path``: finite numbers, at most ``MAX_DEPTH`` deep.

    Raises:
        FileMistake: it is no such object.
    """
    try:
        found = json.loads(data, parse_constant=_refuse_constant)
        if _MAY_BREAK.search(data):  # half of a surrogate pair is no text, 1e999 is no number
            json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        what = "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise FileMistake(path, f"is not valid JSON ({what})") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and not _is_shallow(found):
        raise FileMistake(path, f"is not valid JSON (nested more than {MAX_DEPTH} deep)")
    if not isinstance(found, dict):
        raise FileMistake(path, f"must hold a JSON object, but holds a {type(found).__name__}")
    return found


def write_bytes_durably(path: Path, data: bytes, root: Path | None = None) -> None:
    """Write so that ``path`` holds all of ``data`` or is as before, whatever happens. A link at ``path`` is
    replaced, not followed.

    Args:
        root: a folder that ``path`` lies in; below it no symbolic link is followed.
    Raises:
        FileMistake: ``path`` leaves ``root``, or is a folder.
    """
    check_way(path, root)
    if path.is_dir() and not path.is_symlink():
        raise FileMistake(path, "must be a file, but is a folder", "Move it away.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if os.path.lexists(temporary):  # of a killed process of this number, or a link that waits for us
        temporary.unlink()
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_temporaries(folder: Path, older_s: float = 0.0) -> None:
    """Remove what killed writers left below ``folder``. Files younger than ``older_s`` seconds may still be written,
    and stay."""
    for path in folder.rglob("*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
            with contextlib.suppress(OSError):  # they do no harm
                if not older_s or time.time() - path.stat().st_mtime > older_s:
                    path.unlink()


def check_tree(root: Path) -> None:
    """A folder that is about to be written in holds regular files and folders only.

    Raises:
        FileMistake: names the first other entry.
    """
    for at, folders, names in os.walk(root):
        for name in sorted([*folders, *names]):
            path = Path(at, name)
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode):
                _check_kind(path, found)
            if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                raise FileMistake(path, "is a hard link: writing it would change another file", _COPY)


_COPY = "Copy the folder, with the files themselves in place of links (cp -rL)."


def check_way(path: Path, root: Path | None) -> None:
    """Every folder between ``root`` and ``path`` is a folder of its own, no link.

    Raises:
        FileMistake: names the first that is not.
    """
    if root is None:
        return
    if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
        raise FileMistake(path, f"must lie in {root}")
    at = root
    for part in path.relative_to(root).parts[:-1]:
        at = at / part
        try:
            found = at.lstat()
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise FileMistake(at, f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
        if stat.S_ISLNK(found.st_mode):
            raise FileMistake(at, "must be a folder, but is a symbolic link", _COPY)
        if not stat.S_ISDIR(found.st_mode):
            raise FileMistake(at, "must be a folder, but is a file")


def _check_kind(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for test, words in _KINDS if test(found.st_mode)), "a device")
        raise FileMistake(path, f"must be a regular file, but is {kind}", _COPY if "link" in kind else "")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
        if not level:
            return True
    return False
