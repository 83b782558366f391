"""The spaces of the sources run: each article's recipe and others of its space, on digits in place of MNIST."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from harness import trial
from harness.records import TrialRecord
from harness.search.driver import teacher_trees
from harness.space import load_space
from tests.spaces import chooser

SOURCES = sorted((Path(__file__).resolve().parent.parent / "search_spaces" / "sources").glob("*.yaml"))
BRIEF = ["task.name=digits", "train.epochs=2"]
TAUGHT = [*BRIEF, "teacher.epochs=2"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_the_articles_recipes_and_others_of_the_space_become_files(path: Path, tmp_path: Path) -> None:
    space = load_space(path, overrides=TAUGHT if "teacher:" in path.read_text() else BRIEF)
    ready = trial.prepare(teacher_trees(space), str(tmp_path))
    rng, accuracies = Random(0), []
    known = [
        space.sample(lambda hole, known=entry.params: known.get(hole.internal, hole.default)) for entry in space.first
    ]
    others = [space.sample(chooser(rng)) for _ in range(3)]
    for number, params in enumerate([*known, *others]):
        folder = tmp_path / "trials" / str(number)
        record = TrialRecord.model_validate(
            trial.run(space.fill(params, number).to_tree(), number, {}, "", str(folder), ready["logits"])
        )
        assert record.status == "ok", record.reason
        assert record.value("size_bytes") == (folder / "model.onnx").stat().st_size
        accuracies.append(record.value("accuracy"))
    assert max(accuracies) > 0.5 > ready["chance"]


@pytest.mark.ray
@pytest.mark.slow
def test_the_report_of_a_search_marks_the_articles_recipes(tmp_path: Path) -> None:
    path = next(p for p in SOURCES if p.stem == "prune_distil")
    command = [sys.executable, "-m", "harness", "search", str(path), "--trials", "5", *(f"--set={s}" for s in TAUGHT)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    page = (tmp_path / "results" / "prune_distil" / "report" / "index.html").read_text()
    for first in load_space(path).first:
        assert first.name in page
