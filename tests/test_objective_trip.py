"""An F1 objective from the user's YAML to the recipe that `pick` gives, held against scikit-learn on the files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import f1_score

from harness.records import read_record
from harness.space.space import load_recipe
from tests.verbs import harness_here

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TASK = """
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import f1_score

def metrics(logits, labels):
    return {"f1": f1_score(labels, logits.argmax(1), average="macro")}

def data():
    x, y = load_breast_cancer(return_X_y=True)
    x, y = x[::-1].copy(), y[::-1].copy()
    return {"x_train": x[:300], "y_train": y[:300], "x_validation": x[300:430], "y_validation": y[300:430],
            "x_test": x[430:], "y_test": y[430:], "metrics": metrics}
"""
SPACE = """
task: {name: "tumours:data"}
student: {model: mlp, hidden: {choice: [[4], [16]]}}
train: {epochs: 4, lr: {float: [0.01, 0.1], log: true}}
quant: {bits: {choice: [2, 8, 32]}}
objectives: [{name: f1, direction: maximize}, size_bytes, latency_ms]
search: {trials: 8}
resources: {slots: 1}
"""


def harness(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("f1")
    (folder / "tumours.py").write_text(TASK)
    (folder / "f1.yaml").write_text(SPACE)
    ran = harness("search", "f1.yaml", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    return folder, ran.stdout


def oracle(file: Path, part: slice) -> float:
    """scikit-learn's macro F1 of what onnxruntime says of the samples."""
    x, y = (a[::-1][part] for a in load_breast_cancer(return_X_y=True))
    [logits] = onnxruntime.InferenceSession(file).run(["logits"], {"input": x.astype(np.float32)})
    return f1_score(y, logits.argmax(1), average="macro")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results/f1/report/pareto.csv").open() as file:
        return list(csv.DictReader(file))


def test_records_tables_and_test_column_hold_the_f1_of_the_files(searched) -> None:
    folder, printed = searched
    study = folder / "results" / "f1"
    front = rows(folder)
    assert front and "test f1" in printed and "accuracy" not in printed.splitlines()[2]
    for row in front:
        file = study / row["model"]
        record = read_record(file.parent)
        assert record is not None
        assert record.value("f1") == pytest.approx(oracle(file, slice(300, 430)), abs=1e-12)
        assert float(row["f1"]) == pytest.approx(record.value("f1"), abs=1e-12)
        assert float(row["test_f1"]) == pytest.approx(oracle(file, slice(430, None)), abs=1e-12)
        assert f"{float(row['f1']):.4f}" in printed and f"{float(row['test_f1']):.4f}" in printed
    page = (study / "report" / "index.html").read_text()
    assert 'id="tradeoff_size_bytes_f1"' in page and "f1 against latency" in page and "f1 (validation)" in page


def test_the_reference_is_the_f1_of_always_saying_the_most_frequent_class_or_below(searched) -> None:
    folder, _ = searched
    y = load_breast_cancer(return_X_y=True)[1][::-1][300:430]
    chance = f1_score(y, np.full(len(y), np.bincount(y).argmax()), average="macro")
    study = json.loads((folder / "results/f1/study.json").read_text())
    assert study["chance"]["f1"] == pytest.approx(chance)
    assert study["reference"]["f1"] <= chance + 1e-12
    assert study["hypervolume"] > 0


def test_pick_takes_limits_on_f1(searched) -> None:
    folder, _ = searched
    front = rows(folder)
    limit = float(np.median([float(r["f1"]) for r in front]))
    ran = harness_here("pick", "results/f1", "--min", f"f1={limit}", "--yaml", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    (folder / "picked.yaml").write_text(ran.stdout)
    wanted = min((r for r in front if float(r["f1"]) >= limit), key=lambda r: (float(r["size_bytes"]), -float(r["f1"])))
    assert ran.stdout.startswith(f"# trial {wanted['number']} of f1")
    assert load_recipe(folder / "picked.yaml").task.name == "tumours:data"
    best = harness_here("pick", "results/f1", "--max", "latency_ms=1000", "--yaml", cwd=folder).stdout
    top = max(front, key=lambda r: (float(r["f1"]), -float(r["size_bytes"])))
    assert best.startswith(f"# trial {top['number']} of f1")
    none = harness_here("pick", "results/f1", "--min", "f1=1.01", cwd=folder)
    assert (none.returncode, none.stdout) == (2, "") and "The nearest is trial" in none.stderr
    unknown = harness_here("pick", "results/f1", "--min", "f2=0.5", cwd=folder)
    assert unknown.returncode == 2 and "must be a quantity that the study measured, but got 'f2'" in unknown.stderr


def test_train_holds_f1_against_the_promise(searched) -> None:
    folder, _ = searched
    ran = harness("train", "results/f1/best/best_f1.yaml", "--out", "made", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    record = read_record(folder / "made")
    assert record is not None
    assert record.value("f1") == pytest.approx(oracle(folder / "made" / "model.onnx", slice(300, 430)), abs=1e-12)
    card = (folder / "made" / "model_card.md").read_text()
    assert "| f1 |" in card and "bootstrap" in card and "test f1" in card


def test_a_metric_that_the_task_lacks_ends_before_any_trial(searched) -> None:
    folder, _ = searched
    (folder / "f2.yaml").write_text(SPACE.replace("name: f1", "name: f2"))
    ran = harness("search", "f2.yaml", cwd=folder)
    assert ran.returncode == 2 and ran.stdout == ""
    said = ran.stderr.splitlines()[-1]
    assert said.startswith("harness: f2.yaml:6: objectives.0") and "but got 'f2'. Known: accuracy, f1." in said
    assert not (folder / "results" / "f2").exists()
