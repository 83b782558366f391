"""What the tests of tasks share: loading by name, small arrays, where downloaded sets lie."""

import os
from pathlib import Path

import numpy as np
import pytest

from harness.errors import SpaceError
from harness.recipe import Selected
from harness.tasks.data import Data, load_data

ROOT = Path(__file__).resolve().parents[1]
SETS = Path(os.environ.get("HARNESS_DATA") or ROOT.parent / "shared" / "data")
PARTS = ("train", "validation", "test")


def load(name: str, **options) -> Data:
    return load_data(Selected(name=name, options=options))


def message(name: str, **options) -> str:
    with pytest.raises(SpaceError) as caught:
        load(name, **options)
    return str(caught.value)


def samples(n=60, classes=3, shape=(4, 4), dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (n, *shape)).astype(dtype), np.arange(n) % classes


def needs(folder: str):
    return pytest.mark.skipif(not (SETS / folder).is_dir(), reason=f"no {folder} in {SETS}: set HARNESS_DATA")
