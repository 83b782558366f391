"""The folders for data sets and for the cache."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
from pathlib import Path

from harness.errors import SpaceError, disk_error
from harness.files.access import remove_temporaries

STALE_S = 24 * 3600.0  # a temporary file older than this belongs to a killed writer
RAY_TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def cache_folder() -> Path:
    """``HARNESS_CACHE``, else ``harness`` in the user's cache folder (``XDG_CACHE_HOME``, ``~/.cache``).

    Raises:
        SpaceError: no variable is set, and the system knows no home folder of the user.
    """
    if named := os.environ.get("HARNESS_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "harness"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        remedy = "Set HOME to a folder that can be written."
        raise SpaceError(
            "HOME", "is not set, and the system knows no home folder of this user", remedy=remedy
        ) from None


def check_cache() -> None:
    """Check that the cache folder can be written, and remove temporary files in it that are older than a day.

    Raises:
        SpaceError: it cannot be written.
        DiskError: its disk is full or read-only.
    """
    folder = cache_folder()
    _check_writable(folder, "HARNESS_CACHE", "Set HARNESS_CACHE to a folder that can be written.")
    remove_temporaries(folder, STALE_S)


def check_home() -> None:
    """Check that Ray can keep its cluster token in the home folder.

    Raises:
        SpaceError: there is no token, and none can be written.
    """
    if any(os.environ.get(name) for name in RAY_TOKEN) or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    folder = _home() / ".ray"
    if not (folder / "auth_token").is_file():
        _check_writable(folder, "HOME", "Ray keeps its token there: set HOME to a folder that can be written.")


def _check_writable(folder: Path, name: str, remedy: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if on_disk := disk_error(error):
            raise on_disk from None
        raise SpaceError(name, f"cannot be written ({error.strerror})", str(folder), remedy) from None


def data_roots(root: str = "") -> list[Path]:
    """Folders to search for a data set: the named one (``root``, or else ``HARNESS_DATA``), then the cache."""
    named = root or os.environ.get("HARNESS_DATA", "")
    return [*([Path(named).expanduser()] if named else []), cache_folder() / "data"]


def matching(pattern: str) -> list[Path]:
    """The files that a text in a space names: a file of exactly this name, else those that match the pattern, in the
    order of their names. ``~`` is the user's home folder. Of a file and links to it, only one is in the list."""
    for text in (pattern, os.path.expanduser(pattern)):
        with contextlib.suppress(OSError):  # a name that is too long
            if Path(text).is_file():
                return [Path(text)]
    found = sorted(map(Path, glob.glob(os.path.expanduser(pattern), recursive=True)))
    return list({path.resolve(): path for path in reversed(found)}.values())[::-1]
