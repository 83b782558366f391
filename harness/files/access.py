"""Reading and writing files that may come from somebody else: regular files of a bounded size, inside one folder.

An untrusted study's folder can hold symbolic links to other places, FIFOs and devices that never end, and files of
gigabytes. No function here follows a link below ``root``, waits for a FIFO, or reads more than a given limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from harness.errors import SpaceError

Plain: TypeAlias = "dict[str, Plain] | list[Plain] | str | int | float | bool | None"  # a value of a JSON or YAML file

# Largest sizes that are read.
JSON_BYTES = 16 << 20  # records, study.json and similar files
TABLE_BYTES = 64 << 20  # CSV files, and the cache of latencies
MODEL_BYTES = 2**31  # ONNX and packed files: protobuf's limit
MAX_DEPTH = 100  # nesting of lists and objects in JSON
_MAY_BREAK = re.compile(rb"\\u[dD]|\d{300}|[\d.][eE]\+?\d{3,}(?=[\s,\]}])")
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


class FileMistake(SpaceError):
    """A file is refused because of its kind, place, size or content; the text says which."""

    def __init__(self, path: Path, rule: str, remedy: str = ""):
        super().__init__("", rule, remedy=remedy, file=str(path))


def read_bytes(path: Path, limit: int, root: Path | None = None) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Args:
        root: a folder that ``path`` must lie in; below it no symbolic link is followed. None, for a path that the
            user gave: links are followed.
    Raises:
        FileNotFoundError: there is no such file.
        FileMistake: it is no regular file, too large, outside ``root``, or cannot be read.
    """
    check_way(path, root)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if root is None else os.O_NOFOLLOW)
    try:
        _check_kind(path, os.stat(path, follow_symlinks=root is None))
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            _check_kind(path, status)
            data = b"" if status.st_size > limit else file.read(status.st_size + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise FileMistake(path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if max(status.st_size, len(data)) > limit:  # the file may have grown since fstat
        raise FileMistake(path, f"must be at most {limit:,} bytes")
    return data


def read_object(path: Path, root: Path | None = None, limit: int = JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file (see :func:`parse_object`).

    Raises:
        FileNotFoundError: there is no such file.
        FileMistake: as :func:`read_bytes`, or the file holds no such object.
    """
    return parse_object(path, read_bytes(path, limit, root))


def parse_object(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``, read from ``path``: finite numbers, at most ``MAX_DEPTH`` deep.

    Raises:
        FileMistake: ``data`` is no such object.
    """
    try:
        value: Plain = json.loads(data, parse_constant=_refuse_constant)
        if _MAY_BREAK.search(data):  # refuses lone surrogates and numbers such as 1e999
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        what = "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise FileMistake(path, f"is not valid JSON ({what})") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and not _is_shallow(value):
        raise FileMistake(path, f"is not valid JSON (nested more than {MAX_DEPTH} deep)")
    if not isinstance(value, dict):
        raise FileMistake(path, f"must hold a JSON object, but holds a {type(value).__name__}")
    return value


def write_bytes_durably(path: Path, data: bytes, root: Path | None = None) -> None:
    """Write ``data`` atomically: after a crash ``path`` holds either all of it or its old content. A link at ``path``
    is replaced, not followed.

    Args:
        root: a folder that ``path`` must lie in; below it no symbolic link is followed.
    Raises:
        FileMistake: ``path`` is outside ``root``, or is a folder.
    """
    check_way(path, root)
    if path.is_dir() and not path.is_symlink():
        raise FileMistake(path, "must be a file, but is a folder", "Move it away.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if os.path.lexists(temporary):  # left by a killed process with this id, or a planted link
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
    """Remove the temporary files of killed writers below ``folder``. Files younger than ``older_s`` seconds stay, since
    they may still be written."""
    for path in folder.rglob("*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
            with contextlib.suppress(OSError):  # a file that cannot be removed does no harm
                if not older_s or time.time() - path.stat().st_mtime > older_s:
                    path.unlink()


def check_tree(root: Path) -> None:
    """Check, before writing into the folder ``root``, that it holds only folders and regular files without other names.

    Raises:
        FileMistake: names the first entry that is something else.
    """
    for at, folders, names in os.walk(root):
        for name in sorted([*folders, *names]):
            path = Path(at, name)
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode):
                _check_kind(path, status)
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                raise FileMistake(path, "is a hard link: writing it would change another file", _COPY)


_COPY = "Copy the folder, with the files themselves in place of links (cp -rL)."


def check_way(path: Path, root: Path | None) -> None:
    """Check that ``path`` lies in ``root``, and that all folders between them are real folders, not links.

    Raises:
        FileMistake: names the first part of the path that is not.
    """
    if root is None:
        return
    if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
        raise FileMistake(path, f"must lie in {root}")
    at = root
    for part in path.relative_to(root).parts[:-1]:
        at = at / part
        try:
            status = at.lstat()
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise FileMistake(at, f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
        if stat.S_ISLNK(status.st_mode):
            raise FileMistake(at, "must be a folder, but is a symbolic link", _COPY)
        if not stat.S_ISDIR(status.st_mode):
            raise FileMistake(at, "must be a folder, but is a file")


def _check_kind(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((words for test, words in _KINDS if test(status.st_mode)), "a device")
        raise FileMistake(path, f"must be a regular file, but is {kind}", _COPY if "link" in kind else "")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _is_shallow(value: Plain) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
        if not level:
            return True
    return False
