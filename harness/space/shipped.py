"""The search spaces that are shipped with harness, found by name: ``digits`` is the file ``digits.yaml`` of them."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "search_spaces"


def shipped() -> dict[str, Path]:
    """Name -> file."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def located(path: Path) -> Path:
    """``path``, or the shipped space of that name if there is no such file."""
    return path if path.exists() else shipped().get(str(path), path)
