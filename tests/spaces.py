"""Small spaces for the tests of spaces: sections as text, one per line."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from harness.errors import SpaceError
from harness.space.distributions import Hole
from harness.space.space import Space, load_space

BASE = {
    "task": "{name: digits}",
    "teacher": "{model: convnet, width: 32}",
    "student": "{model: convnet, width: {choice: [4, 8, 16]}}",
}


def write(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def space_of(folder: Path, overrides: tuple[str, ...] = (), **sections: str) -> Space:
    """A space of ``BASE`` with sections replaced, one per line: task in line 1, teacher 2, student 3."""
    merged = {**BASE, **sections}
    return load_space(write(folder, "".join(f"{k}: {v}\n" for k, v in merged.items() if v)), overrides=overrides)


def mistake(folder: Path, overrides: tuple[str, ...] = (), **sections: str) -> str:
    with pytest.raises(SpaceError) as caught:
        space_of(folder, overrides, **sections)
    return str(caught.value)


def chooser(rng: random.Random) -> Any:
    """A choice of a code for a hole, for ``Space.sample``."""

    def pick(h: Hole) -> Any:
        if h.kind == "choice":
            return rng.randrange(len(h.choices))
        codes = h.spread(50)
        if h.kind == "float" and h.step is None:
            return rng.choice([*codes, rng.uniform(*h.bounds())])
        return rng.choice(codes)

    return pick
