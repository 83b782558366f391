"""JSON and CSV files with a checksum inside, so that damage is noticed.

A JSON object, in a file or in one line, ends with the key ``crc32``: the checksum of everything before it. A line of a
CSV file ends with a cell of that kind. Files of older versions have none, and are read as they are.
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
AGAIN = "Give the search's command again: it is made again from the trials' records."  # where a summary is damaged
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
    """Durably, with a last key ``crc32`` (``root``: see :func:`harness.files.access.write_bytes_durably`)."""
    body = json.dumps(data, indent=1, allow_nan=False)[:-1].rstrip("\n").encode()
    comma = "," if data else ""
    write_bytes_durably(path, body + f'{comma}\n "crc32": "{zlib.crc32(body):08x}"\n}}\n'.encode(), root)


def read_whole(path: Path, root: Path | None = None, limit: int = JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file below ``root`` (default: its folder), without its checksum.

    Raises:
        FileNotFoundError: there is no such file.
        FileMistake: it is damaged, or as :func:`harness.files.access.read_object`.
    """
    data = read_bytes(path, limit, root or path.parent)
    found = _CHECKED.fullmatch(data)
    if found is None and _meant(data, _FILE_END):
        raise FileMistake(path, "is damaged: its checksum cannot be read")
    if found is not None:
        if zlib.crc32(found["body"]) != int(found["crc"], 16):
            raise FileMistake(path, "is damaged: it does not match its checksum")
        data = found["body"] + b"}"
    return parse_object(path, data)


def read_or_damage(path: Path, limit: int = JSON_BYTES) -> tuple[dict[str, Any], str]:
    """The object in a JSON file (empty where there is none), and what is wrong with it in words (empty: nothing)."""
    try:
        return read_whole(path, limit=limit), ""
    except FileNotFoundError:
        return {}, ""
    except FileMistake as error:
        return {}, f"{path.name} {error.rule}"


def write_cached(path: Path, data: bytes) -> None:
    """Durably, for :func:`read_cached`: the SHA-256 of ``data``, then ``data``."""
    write_bytes_durably(path, hashlib.sha256(data).digest() + data)


def read_cached(path: Path) -> bytes | None:
    """What :func:`write_cached` wrote; None where there is no such file, or it is damaged (logged): make it again."""
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
    """A line of a CSV file with the checksum of its cells as its last one."""
    return f"{line},{zlib.crc32(line.encode()):08x}"


def unsealed(line: str) -> list[str]:
    """The cells of such a line, without its checksum.

    Raises:
        ValueError: it does not match its checksum.
    """
    cells, _, found = line.rpartition(",")
    if sealed(cells) != line:
        raise ValueError(f"checksum {found!r}")
    return cells.split(",")


def sealed_entry(log: dict[str, Any]) -> str:
    """A line of JSON, with the checksum of what stands before it."""
    text = json.dumps(log, separators=(",", ":"))[:-1]
    return f'{text},"{CHECKSUM}":"{zlib.crc32(text.encode()):08x}"}}\n'


def unsealed_entry(line: bytes) -> dict[str, Any]:
    """The object in such a line, without its checksum.

    Raises:
        ValueError: it is damaged.
    """
    log = json.loads(line)
    if _meant(line, _LINE_END):
        found = log.pop(CHECKSUM, None)
        if found != f"{zlib.crc32(line[: -len(_LINE_END)]):08x}":
            raise ValueError("it does not match its checksum")
    return log
