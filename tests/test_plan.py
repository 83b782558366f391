"""`harness search --dry-run` and `harness.plan`: all checks of a search, what it would do, and nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import harness
from harness.errors import SpaceError
from harness.files.checksums import write_checked_json
from harness.search.budget import Budget
from harness.search.plan import _estimate, local_slots
from harness.search.resume import MADE_OF
from harness.trial.job import Pace

SPACE = {
    "task": {"name": "arrays", "train": "data.npz"},
    "teacher": {"model": "mlp", "hidden": [8], "epochs": 3},
    "student": {"model": "mlp", "hidden": {"choice": [[4], [8]]}},
    "train": {"epochs": 2, "batch_size": 16},
    "quant": {"bits": {"choice": [4, 8]}},
    "distill": {"kind": "logits", "weight": {"float": [0, 1]}},
    "objectives": ["accuracy", "size_bytes"],
    "search": {"trials": 7},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    np.savez("data.npz", x=rng.normal(size=(200, 5)).astype(np.float32), y=np.array(["no", "yes"] * 100))
    return tmp_path


def test_the_verb_prints_the_plan_and_writes_nothing(here: Path) -> None:
    Path("space.yaml").write_text(json.dumps(SPACE))  # JSON is YAML
    before = sorted(here.rglob("*"))
    command = [sys.executable, "-m", "harness", "search", "space.yaml", "--dry-run", "--trials", "9"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert "9 trials, 2 epochs each" in done.stdout
    assert ["quant.bits", "4,", "8"] in rows or ["parameters:", "quant.bits", "4,", "8"] in rows
    assert "train (136, 5) float32" in done.stdout  # 200, less 20 % for test, less 15 % for validation
    assert "test (40, 5) float32" in done.stdout
    assert "an epoch of the widest student takes" in done.stdout
    assert done.stderr.startswith("harness ")
    assert sorted(p for p in here.rglob("*") if "cache" not in p.parts) == before


def test_a_mistake_in_the_data_is_named_with_its_line(here: Path) -> None:
    np.savez("data.npz", x=np.zeros((4, 5), np.float32), y=np.zeros(4, int))
    with pytest.raises(SpaceError, match="task.train: there must be at least two classes"):
        harness.plan(SPACE)


def test_a_folder_of_another_study_is_refused(here: Path) -> None:
    Path("study").mkdir()
    Path("study/space.yaml").write_text(json.dumps({**SPACE, "quant": {"bits": 8}}))
    with pytest.raises(SpaceError, match="made with another space"):
        harness.plan(SPACE, "study")


def test_what_a_search_refuses_later_is_refused(here: Path) -> None:
    with pytest.raises(SpaceError, match="track: no installed package has a tracker"):
        harness.plan({**SPACE, "track": "nosuch"})
    study = Path("study")
    (study / "trials" / "00000").mkdir(parents=True)
    (study / "space.yaml").write_text(json.dumps(SPACE))
    (study / "trials" / "00000" / "record.json").write_text("{}")
    assert harness.plan(SPACE, study).finished == 1
    write_checked_json(study / MADE_OF, {"data train x": "other samples"})
    with pytest.raises(SpaceError, match="the study was made with other data or code"):
        harness.plan(SPACE, study)


def test_minutes_follow_from_budget_pace_and_slots() -> None:
    pace = Pace(epoch_s=3.0, teacher_s=60.0)
    start = 1 + 15 / 60  # the teacher, and what comes before the first trial
    assert _estimate(Budget(60), 0, 10, 2, pace) == pytest.approx(start + 60 * (30 + 1) / 2 / 60)
    assert _estimate(Budget(60), 40, 10, 2, pace) == pytest.approx(start + 20 * (30 + 1) / 2 / 60)
    assert _estimate(Budget(60), 70, 10, 2, pace) == pytest.approx(start)
    assert _estimate(Budget(None, seconds=600), 0, 10, 2, pace) == pytest.approx(start + 10)
    assert _estimate(Budget(10_000, seconds=600), 0, 10, 2, pace) == pytest.approx(start + 10)
    assert _estimate(Budget(None, epochs=100), 0, 10, 1, pace) == pytest.approx(start + (300 + 10) / 60)


@pytest.mark.parametrize(("resources", "slots"), [({"cpu": 10_000}, 1), ({"slots": 3}, 3)])
def test_slots_of_this_machine(here: Path, resources: dict[str, int], slots: int) -> None:
    assert local_slots(harness.load_space({**SPACE, "resources": resources})) == slots
