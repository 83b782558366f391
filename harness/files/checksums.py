"""JSON and CSV files that contain their checksum, so that damage is detected.

The last key of a JSON object, in a file or in one line, is ``crc32``: the checksum of all bytes before it. The last
cell of a CSV line is the checksum of its other cells. Files of older versions have no checksum and are read without a
check.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.files.access import JSON_BYTES, MODEL_BYTES, FileMistake, parse_object, read_bytes, write_bytes_durably

log = logging.getLogger(__name__)

CHECKSUM = "crc32"
AGAIN = "Give the search's command again: it is made again from the trials' records."  # remedy for damaged summaries
_DIGITS = 8
_LINE_END = f',"{CHECKSUM}":"{"?" * _DIGITS}"}}\n'.encode()
_FILE_END = f'\n "{CHECKSUM}": "{"?" * _DIGITS}"\n}}\n'.encode()
_CHECKED = re.compile(rb'(?P<body>\{.*?),?\n "crc32": "(?P<crc>[0-9a-f]{8})"\n\}\n', re.DOTALL)
_DAMAGED = 4  # bytes of an end that may differ in a file that was written with one: files without have fewer in common


def _meant(data: bytes, end: bytes) -> bool:
    """Was the file or line written with the checksum at its end, whether that is whole or damaged?"""
    differ = sum(a != b for a, b in zip(data[-len(end) :], end, strict=False) if b != ord("?"))
    return len(data) >= len(end) and differ <= _DAMAGED


def write_checked_json(path: Path, data: Mapping[str, Any], root: Path | None = None) -> None:
    """Write ``data`` durably, with ``crc32`` as the last key (``root``: as in
    :func:`harness.files.access.write_bytes_durably`)."""
    body = json.dumps(data, indent=1, allow_nan=False)[:-1].rstrip("\n").encode()
    comma = "," if data else ""
    write_bytes_durably(path, body + f'{comma}\n "crc32": "{zlib.crc32(body):08x}"\n}}\n'.encode(), root)


def read_whole(path: Path, root: Path | None = None, limit: int = JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file below ``root`` (default: its folder), without its checksum.

    Raises:
        FileNotFoundError: there is no such file.
        FileMistake: the file is damaged, or as :func:`harness.files.access.read_object`.
    """
    data = read_bytes(path, limit, root or path.parent)
    match = _CHECKED.fullmatch(data)
    if match is None and _meant(data, _FILE_END):
        raise FileMistake(path, "is damaged: its checksum cannot be read")
    if match is not None:
        if zlib.crc32(match["body"]) != int(match["crc"], 16):
            raise FileMistake(path, "is damaged: it does not match its checksum")
        data = match["body"] + b"}"
    return parse_object(path, data)


def read_or_damage(path: Path, limit: int = JSON_BYTES) -> tuple[dict[str, Any], str]:
    """The object in a JSON file (empty if there is no file), and a text on what is wrong with the file (empty if
    nothing is)."""
    try:
        return read_whole(path, limit=limit), ""
    except FileNotFoundError:
        return {}, ""
    except FileMistake as error:
        return {}, f"{path.name} {error.rule}"


def write_cached(path: Path, data: bytes) -> None:
    """Write a file for :func:`read_cached` durably: the SHA-256 of ``data``, then ``data``."""
    write_bytes_durably(path, hashlib.sha256(data).digest() + data)


def read_cached(path: Path) -> bytes | None:
    """The data that :func:`write_cached` wrote. None if there is no such file, or if it is damaged, which is logged;
    the caller then makes the data again."""
    try:
        content = read_bytes(path, MODEL_BYTES)
    except FileNotFoundError:
        return None
    digest, data = content[:32], content[32:]
    if hashlib.sha256(data).digest() != digest:
        log.warning("%s is damaged: it is made again", path)
        return None
    return data


def sealed(line: str) -> str:
    """A CSV line with the checksum of its cells appended as the last cell."""
    return f"{line},{zlib.crc32(line.encode()):08x}"


def unsealed(line: str) -> list[str]:
    """The cells of a line made by :func:`sealed`, without the checksum.

    Raises:
        ValueError: the line does not match its checksum.
    """
    cells, _, checksum = line.rpartition(",")
    if sealed(cells) != line:
        raise ValueError(f"checksum {checksum!r}")
    return cells.split(",")


def sealed_entry(entry: dict[str, Any]) -> str:
    """A line of JSON with the checksum of the preceding text as its last key."""
    text = json.dumps(entry, separators=(",", ":"))[:-1]
    return f'{text},"{CHECKSUM}":"{zlib.crc32(text.encode()):08x}"}}\n'


def unsealed_entry(line: bytes) -> dict[str, Any]:
    """The object in a line made by :func:`sealed_entry`, without the checksum.

    Raises:
        ValueError: the line is damaged.
    """
    entry = json.loads(line)
    if _meant(line, _LINE_END):
        checksum = entry.pop(CHECKSUM, None)
        if checksum != f"{zlib.crc32(line[: -len(_LINE_END)]):08x}":
            raise ValueError("it does not match its checksum")
    return entry
