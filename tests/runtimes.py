"""Every registered runtime as a case of a test. One that is not installed is skipped, one on a GPU is marked so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import SpaceError
from harness.registries import REGISTRIES
from harness.runtimes.base import load
from tests.fake_trial import tiny_model

# Torch multiplies the dequantized weights by activations that it does not round.
ROUNDS = {name: not method.target.startswith("harness.runtimes.torch:") for name, method in REGISTRIES.runtimes.items()}


def case(name: str) -> Any:
    marks = {"cuda": pytest.mark.gpu, "compiled": pytest.mark.slow}
    return pytest.param(name, marks=[mark for word, mark in marks.items() if word in name])


def skip_unless_installed(name: str, folder: Path) -> None:
    """Skips the test where the runtime says so of a file of one product."""
    path = folder / "one_product.onnx"
    path.write_bytes(tiny_model(4))
    try:
        load(name, path)
    except SpaceError as error:
        if "is not installed" in str(error):
            pytest.skip(str(error))
        raise
