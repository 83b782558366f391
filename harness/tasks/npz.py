"""Reading arrays of an .npz file without unpickling, and without allocating more than the archive holds."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

UNREADABLE = (OSError, ValueError, EOFError, KeyError, TypeError, MemoryError, zipfile.BadZipFile, zlib.error,
              NotImplementedError, RuntimeError, SystemError, SyntaxError, tokenize.TokenError)  # fmt: skip

_LAST_CHARACTER = 0x10FFFF  # of Unicode; 0xD800 to 0xDFFF are halves of pairs in UTF-16


def names_in(file: Path) -> list[str]:
    """The names of the archive's arrays.

    Raises:
        one of ``UNREADABLE``: the file is no such archive.
    """
    if not file.is_file():
        raise ValueError("it is no regular file")
    with zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_npz(file: Path, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays ``names`` of the archive.

    Raises:
        KeyError: an array is missing; the text lists the names in the archive.
        one of ``UNREADABLE``: the file is no such archive, is damaged, or states sizes that it does not hold.
    """
    if not file.is_file():
        raise ValueError("it is no regular file")
    with zipfile.ZipFile(file) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        if missing := [name for name in names if name not in members]:
            raise KeyError(f"{' and '.join(missing)} missing, it holds {sorted(members)[:20]}")
        return [_array(archive, members[name]) for name in names]


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """The array in the member ``name``. Its header is compared with the member's size before anything is allocated,
    because a forged header may state terabytes."""
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"{name} is of version {version}")
        stated, held = math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size - stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects")
    empty = dtype.itemsize == 0 and math.prod(shape) > 0  # any number of values in no bytes
    if min(shape, default=0) < 0 or stated != held or empty:
        raise ValueError(f"{name} states {shape} {dtype}, {stated} bytes, and holds {held}")
    with archive.open(name) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    if dtype.kind == "U":
        codes = np.ascontiguousarray(array).view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if ((codes > _LAST_CHARACTER) | ((codes >= 0xD800) & (codes <= 0xDFFF))).any():
            raise ValueError(f"{name} holds codes that are no characters")
    return array
