"""The idx files of MNIST: read them, check that they are complete, and decompress their archives into the cache.

Header: two zero bytes, type (8: unsigned byte), number of dimensions, each dimension as a
big-endian 32-bit number; the data follow.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np

from harness.errors import SpaceError


def check_whole(file: Path) -> tuple[int, ...]:
    """The shape in the header of an idx file of bytes.

    Raises:
        SpaceError: it is no such file, or its size does not fit the shape.
    """
    try:
        with open(file, "rb") as stream:
            magic = stream.read(4)
            dims = magic[3] if len(magic) == 4 else 0
            sizes = stream.read(4 * dims)
        actual = file.stat().st_size
    except OSError as error:
        raise SpaceError("task.name", f"{file} cannot be read ({error})") from error
    if magic[:3] != b"\0\0\x08" or dims not in (1, 3) or len(sizes) != 4 * dims:
        raise SpaceError("task.name", f"{file} is not an idx file of bytes", magic, "Delete it, or copy it again.")
    shape = struct.unpack(f">{dims}I", sizes)
    expected = 4 + 4 * dims + math.prod(shape)
    if actual != expected:
        raise SpaceError(
            "task.name",
            f"{file} must have {expected} bytes as its header says",
            actual,
            "Delete it, or copy it again.",
        )
    return shape


def read(file: Path) -> np.ndarray:
    """The array in a complete idx file of bytes."""
    shape = check_whole(file)
    return np.fromfile(file, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def unpacked(archives: list[Path], cache: Path, inside: str) -> Path:
    """Decompress ``archives`` to ``<root>/<inside>/`` and return ``root``, a folder in ``cache``.

    The name of ``root`` contains a checksum of the archives, so that files of other archives are never used. Every file
    is written atomically; a file that exists is reused.
    """
    try:
        root = cache / f"unpacked-{_key(archives)}"
        folder = root / inside
        folder.mkdir(parents=True, exist_ok=True)
        for archive in archives:
            target = folder / archive.stem
            if not target.exists():
                _unpack(archive, target)
    except (OSError, EOFError, zlib.error) as error:
        remedy = "Set HARNESS_CACHE to a folder that can be written, and check the archives."
        raise SpaceError(
            "task.name", f"cannot unpack {archives[0].parent} into {cache} ({error})", remedy=remedy
        ) from error
    return root


def _key(archives: list[Path]) -> str:
    """A hash of each archive's last eight bytes: CRC-32 and size of its content (RFC 1952, 2.3.1)."""
    digest = hashlib.sha256()
    for archive in archives:
        with open(archive, "rb") as stream:
            stream.seek(-min(8, archive.stat().st_size), os.SEEK_END)
            digest.update(stream.read())
    return digest.hexdigest()[:12]


def _unpack(archive: Path, target: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as partial:
        try:
            with gzip.open(archive) as stream:
                shutil.copyfileobj(stream, partial)
            partial.close()
            check_whole(Path(partial.name))
            os.replace(partial.name, target)
        except BaseException:
            Path(partial.name).unlink(missing_ok=True)
            raise
