"""Bits flipped in the files of a finished study: noticed, or without effect; never a traceback."""

from __future__ import annotations

import io
import json
import logging
import random
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from harness.errors import HarnessError
from harness.report.loading import load_study
from harness.report.page import render
from harness.report.picks import best_points
from tests.chaos import Case
from tests.chaos.strikes import new_box, search_in
from tests.oracle import SPACE, TRIALS

COUNT = 300  # files and bits of the whole attack


def flip(data: bytes, bit: int) -> bytes:
    """``data`` with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def flips() -> Iterator[Case]:
    """One bit in a file drawn at random, for ``COUNT`` times."""
    yield from flips_in(0, COUNT)


def flips_in(seed: int, count: int) -> Iterator[Case]:
    """Seeded: the file first, then the bit, so that small files are struck as often as large ones."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as parent, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_FAKE", parent)  # put back at the end
        whole, grown = new_box(Path(parent)), Path(parent, "grown")
        search_in(whole)
        (whole / "space.yaml").write_text(SPACE.replace(f"trials: {TRIALS}", f"trials: {TRIALS + 1}"))
        shutil.copytree(whole, grown)
        search_in(grown)
        sound = {"read": _seen(whole), "resume": None, "read again": _seen(grown)}
        files = sorted(p.relative_to(whole) for p in (whole / "study").rglob("*") if p.is_file() and p.stat().st_size)
        for _ in range(count):
            file = draw.choice(files)
            bit = draw.randrange(8 * (whole / file).stat().st_size)
            yield f"{file}, bit {bit}", _struck(whole, file, bit, sound)


def _struck(whole: Path, file: Path, bit: int, sound: Mapping[str, Any]) -> list[str]:
    """Read the study, resume it for one more trial, and read it again. What the resume says or refuses explains
    what is read after it."""
    box, found, said = Path(tempfile.mkdtemp(dir=whole.parent)), [], io.StringIO()
    shutil.copytree(whole, box, dirs_exist_ok=True)
    (box / file).write_bytes(flip((box / file).read_bytes(), bit))
    handler = logging.StreamHandler(said)
    logging.getLogger("harness").addHandler(handler)
    for name, look in zip(sound, (_seen, search_in, _seen), strict=True):
        try:
            seen = look(box)
        except HarnessError as error:
            said.write(str(error))
        except Exception as error:
            found.append(f"{name}: {''.join(traceback.format_exception(error))[-600:]}")
        else:
            if seen != sound[name] and not said.getvalue():
                found.append(f"{name}: another result, and nothing is said")
        if name == "read":
            said.seek(0)
            said.truncate()
    logging.getLogger("harness").removeHandler(handler)
    shutil.rmtree(box)
    return found


def _seen(box: Path) -> str:
    """What ``status`` and ``report`` say."""
    data = load_study(box / "study")
    points = best_points(data)
    assert render(data, points)
    numbers = data.trials[["number", "status", "accuracy", "size_bytes", "latency_ms", "test_accuracy"]]
    told = {k: v for k, v in data.study.items() if k not in ("wall_s", "driver_peak_mib", "command")}
    return json.dumps([points, numbers.to_json(), told, dict(data.teacher), data.importances], default=str)
