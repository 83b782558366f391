"""One small search through the command line, and everything that it left read again."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

import harness as api
from harness.measure.lab import Lab, Session
from harness.records import read_record
from harness.runtimes import base as runtimes
from harness.space.space import load_recipe, load_space
from harness.verify.check import check
from tests.verbs import harness_here

SPACE = """
task: {name: digits}
teacher: {model: mlp, hidden: [16], epochs: 2}
student: {model: mlp, hidden: {choice: [[8], [16]]}}
train: {epochs: 2}
quant: {bits: {choice: [2, 4, 8, 32]}}
distill: {kind: logits, weight: {float: [0, 1]}}
search: {trials: 60}
resources: {slots: 1}
"""
TRIALS = 4
STUDY = Path("results/small")

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def harness(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder the search was started in, and how it ended."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "small.yaml").write_text(SPACE)
    ran = harness("search", "small.yaml", "--trials", str(TRIALS), cwd=folder)
    assert ran.returncode == 0, ran.stderr
    return folder, ran


def test_the_front_the_page_and_the_next_step_are_printed(searched) -> None:
    _, ran = searched
    assert "front of small" in ran.stdout and "widest-fp32" in ran.stdout
    assert f"Report: {STUDY}/report/index.html" in ran.stdout
    assert f"harness train {STUDY}/best/knee.yaml" in ran.stdout
    assert f"{STUDY}: {TRIALS} trials finished, 0 failed; the study is complete." in ran.stdout


def test_every_trial_left_a_record_that_its_file_confirms(searched) -> None:
    folder = searched[0] / STUDY
    space = load_space(folder / "space.yaml")
    for number in range(TRIALS):
        trial = folder / "trials" / f"{number:05d}"
        record = read_record(trial)
        assert record is not None and record.status == "ok" and record.artifact is not None
        assert record.value("size_bytes") == (trial / "model.onnx").stat().st_size
        assert {"accuracy", "size_bytes", "latency_ms"} <= set(record.measurements)
        assert load_recipe(trial / "recipe.yaml").to_tree() == record.recipe
        if not record.baseline:
            assert space.fill(record.params, record.seed).to_tree() == record.recipe
        loaded = runtimes.load("onnxruntime", trial / "model.onnx")
        assert loaded.logits(np.zeros((3, 1, 8, 8), np.float32)).shape == (3, 10)
    assert len(list((folder / "trials").iterdir())) == TRIALS


def test_the_summaries_agree_with_the_records(searched) -> None:
    folder = searched[0] / STUDY
    study = json.loads((folder / "study.json").read_text())
    assert (study["status"], study["finished"], study["failed"]) == ("complete", TRIALS, 0)
    assert set(map(str, study["front"])) <= set(json.loads((folder / "test.json").read_text()))
    rows = list(csv.DictReader((folder / "report" / "trials.csv").read_text().splitlines()))
    assert [int(row["number"]) for row in rows] == list(range(TRIALS))
    assert {int(row["number"]) for row in rows if row["front"] == "True"} == set(study["front"])
    page = (folder / "report" / "index.html").read_text()
    assert "<script src=" not in page and "<link" not in page, "the page must open offline"


def test_driver_and_worker_stay_small(searched) -> None:
    folder = searched[0] / STUDY
    assert json.loads((folder / "study.json").read_text())["driver_peak_mib"] <= 400
    records = [read_record(path) for path in (folder / "trials").iterdir()]
    assert all(r is not None and 0 < r.diagnostics["worker_peak_mib"] <= 1536 for r in records)


def test_every_point_of_the_front_is_audited(searched) -> None:
    folder = searched[0] / STUDY
    front = json.loads((folder / "study.json").read_text())["front"]
    for number in front:
        record = read_record(folder / "trials" / f"{number:05d}")
        assert record is not None
        layers = record.diagnostics["audit"]["layers"]
        assert {layer["integer"] for layer in layers} == {record.recipe["quant"]["bits"] < 32}
        assert [layer["shape"] for layer in layers][-1][0] == 10
    page = (folder / "report" / "index.html").read_text()
    assert "What each file on the front really is" in page and "integer layers" in page


def test_the_same_command_again_says_that_it_is_complete(searched) -> None:
    folder = searched[0]
    before = {p: p.read_bytes() for p in (folder / STUDY / "trials").rglob("*") if p.is_file()}
    ran = harness("search", "small.yaml", "--trials", str(TRIALS), cwd=folder)
    assert ran.returncode == 0 and "the study was complete before" in ran.stdout
    assert "front of small" in ran.stdout
    assert {p: p.read_bytes() for p in (folder / STUDY / "trials").rglob("*") if p.is_file()} == before


def test_another_space_is_refused(searched) -> None:
    ran = harness("search", "small.yaml", "--set", "train.epochs=3", cwd=searched[0])
    assert ran.returncode == 2 and "the study was made with another space" in ran.stderr
    assert "another space: train.epochs was 2, now 3. Choose" in ran.stderr


def test_status_report_and_pick_read_it(searched) -> None:
    folder = searched[0]
    told = harness_here("status", str(STUDY), cwd=folder).stdout
    assert f"trials: {TRIALS} finished, 0 stopped early, 0 failed, 0 unreadable" in told
    assert harness("report", str(STUDY), cwd=folder).returncode == 0
    picked = harness("pick", str(STUDY), "--max-latency-ms", "1000", cwd=folder)
    assert picked.returncode == 0, picked.stderr
    paths = dict(line.split(maxsplit=1) for line in picked.stdout.splitlines()[1:3])
    assert load_recipe(folder / paths["recipe:"]).task.name == "digits"
    assert runtimes.load("onnxruntime", folder / paths["model:"]).logits(np.zeros((1, 1, 8, 8), np.float32)).size
    none = harness_here("pick", str(STUDY), "--max-size-bytes", "5", cwd=folder)
    assert (none.returncode, none.stdout) == (2, "") and "The nearest is trial" in none.stderr


def test_a_point_of_the_front_is_trained_for_production(searched) -> None:
    folder = searched[0]
    ran = harness("train", str(STUDY / "best" / "knee.yaml"), "--epochs", "3", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    assert "size_bytes" in ran.stdout and "promised" in ran.stdout
    made = folder / STUDY / "best" / "knee-trained"
    assert {p.name for p in made.iterdir()} >= {"model.onnx", "recipe.yaml", "record.json", "model_card.md"}
    assert load_recipe(made / "recipe.yaml").train.epochs == 3


def test_python_does_what_the_verbs_do(searched, monkeypatch) -> None:
    folder = searched[0]
    monkeypatch.chdir(folder)
    for space in ("small.yaml", YAML(typ="safe").load(SPACE)):
        study = api.search(space, STUDY, trials=TRIALS, progress=False)
        assert study.outcome is not None and study.outcome.status == "already complete"
    opened = api.open_study(STUDY)
    assert list(opened.trials.index) == list(range(TRIALS)) and set(opened.front.index) <= set(opened.trials.index)
    with (STUDY / "report" / "pareto.csv").open() as file:
        assert [int(row["number"]) for row in csv.DictReader(file)] == list(opened.front["number"])
    chosen = opened.pick(most={"latency_ms": 1000.0})
    assert f"trial {chosen.number}: " in harness_here("pick", str(STUDY), "--max-latency-ms", "1000", cwd=folder).stdout
    assert chosen.yaml == harness_here("pick", str(STUDY), "--max-latency-ms", "1000", "--yaml", cwd=folder).stdout
    assert opened.report() == STUDY / "report" / "index.html" and "<table" in opened._repr_html_()
    timed = api.bench([chosen.model], seconds=0.05, processes=2)
    assert len(timed.timings) == 1 and timed.timings[0].ratio == 1.0
    assert api.audit(chosen.model).size_bytes == chosen.model.stat().st_size


class AsRecorded(Lab):
    """A lab that finds every latency as the record says, times ``slower`` for all but the reference."""

    slower = 1.0

    def session(self, jobs, *args, **options):  # type: ignore[no-untyped-def]
        medians = [read_record(job.path.parent).value("latency_ms") for job in jobs]  # type: ignore[union-attr]
        factors = [1.0] + [self.slower] * (len(jobs) - 1)
        blocks = [[[m * f] * 5] * 12 for m, f in zip(medians, factors, strict=True)]
        return Session(blocks, [1.0] * len(jobs), 0, "here", "cpu", [])


class Slower(AsRecorded):
    slower = 1.5


def test_check_holds_on_a_copy_and_names_what_does_not(searched, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(searched[0] / STUDY, copy)
    claims = check(copy, lab=AsRecorded)
    front = json.loads((copy / "study.json").read_text())["front"]
    assert {c.quantity for c in claims} == {"bytes", "accuracy", "latency ratio"}
    assert sum(c.quantity == "bytes" for c in claims) >= len(front)
    assert all(c.holds for c in claims), claims
    slow = [c for c in check(copy, lab=Slower) if not c.holds]
    assert slow and {c.quantity for c in slow} == {"latency ratio"}
    altered = copy / "trials" / f"{front[0]:05d}" / "model.onnx"
    data = bytearray(altered.read_bytes())
    data[len(data) // 2] ^= 1
    altered.write_bytes(data)
    broken = [c for c in check(copy, lab=AsRecorded) if not c.holds]
    assert [(c.file, c.quantity) for c in broken] == [(str(altered), "bytes")]
    assert "other content" in broken[0].found


def test_check_of_no_study_is_one_message(tmp_path: Path) -> None:
    ran = harness("check", str(tmp_path), cwd=tmp_path)
    assert ran.returncode == 2 and "holds no study.json" in ran.stderr
