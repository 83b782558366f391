"""Where data sets are looked for, and where those that harness brings are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``HARNESS_CACHE``, else ``harness`` in the user's cache folder (``XDG_CACHE_HOME``, ``~/.cache``)."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("HARNESS_CACHE") or Path(home) / "harness")


def data_roots(root: str = "") -> list[Path]:
    """Folders that may hold a data set: the one named (``root``, else ``HARNESS_DATA``), then the cache."""
    named = root or os.environ.get("HARNESS_DATA", "")
    return [*([Path(named).expanduser()] if named else []), cache_folder() / "data"]
