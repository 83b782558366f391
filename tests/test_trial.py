"""One trial on the real digits: what it leaves on the disk agrees with what it says."""

import csv
import json
import pickle
import pickletools
from dataclasses import replace

import numpy as np
import pytest
import torch

from harness import production
from harness.errors import SpaceError, TrialError
from harness.recipe import parse_recipe
from harness.records import read_record
from harness.registries import REGISTRIES
from harness.runtimes.base import load
from harness.space.space import load_recipe
from harness.trial import run as trial
from harness.trial import score as scoring
from harness.trial.job import Answer
from tests.jobs import job

TREE = {
    "task": {"name": "digits"},
    "student": {"model": "convnet", "width": 8},
    "teacher": {"model": "mlp", "hidden": [64], "epochs": 5},
    "train": {"epochs": 6, "lr": 0.1},
    "clip": {"kind": "norm", "threshold": 0.3},
    "prune": {"kind": "channel", "ratio": 0.25},
    "quant": {"bits": 4},
    "distill": {"kind": "logits", "weight": 0.3, "temperature": 2.0},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A prepared folder and one finished trial in it."""
    folder = tmp_path_factory.mktemp("study")
    ready = trial.prepare([TREE], str(folder))
    record = trial.run(job(TREE, folder / "trials" / "00007", 7, params={"quant.bits": 2}), ready.logits)
    return folder, ready, record


def test_every_number_is_that_of_the_file(study):
    folder, _, record = study
    path = folder / "trials" / "00007" / "model.onnx"
    assert record.status == "ok", record.reason
    assert read_record(path.parent) == record
    data = scoring.data_of(parse_recipe(TREE, REGISTRIES))
    x, y = data.validation
    again = load("onnxruntime", path).logits(x.float().numpy())
    assert record.value("accuracy") == float((again.argmax(1) == y.numpy()).mean()) > 0.8
    assert record.value("size_bytes") == path.stat().st_size == record.waterfall["file"]
    assert record.diagnostics["parity"]["disagreements"] <= 2
    steps = list(record.waterfall.values())
    assert steps == sorted(steps, reverse=True)
    assert "latency_ms" not in record.measurements  # the driver's to measure
    rows = list(csv.DictReader((path.parent / "history.csv").read_text().splitlines()))
    assert len(rows) == 6 and 0 < float(rows[0]["clipped_share"]) <= 1
    assert load_recipe(path.parent / "recipe.yaml") == parse_recipe(TREE, REGISTRIES)


def test_prepare_gives_logits_chance_and_a_teacher_file(study):
    folder, ready, _ = study
    [values] = ready.logits.values()
    data = scoring.data_of(parse_recipe(TREE, REGISTRIES))
    assert values.shape == (len(data.train[1]), 10) and values.dtype == np.float32
    assert (values.argmax(1) == data.train[1].numpy()).mean() > 0.9
    assert 0.1 <= ready.chance <= 0.2
    teacher = json.loads((folder / "teacher.json").read_text())
    assert (folder / teacher["path"]).stat().st_size == teacher["size_bytes"] and teacher["accuracy"] > 0.8


def test_the_teacher_is_trained_once(study, monkeypatch):
    folder, ready, _ = study
    from harness.train import teacher

    monkeypatch.setattr(teacher, "fit", lambda *_: pytest.fail("the teacher was trained again"))
    again = trial.prepare([TREE], str(folder))
    assert all(np.array_equal(again.logits[k], v) for k, v in ready.logits.items())


def test_a_trial_repeats_bit_for_bit(study, tmp_path):
    folder, ready, record = study
    again = trial.run(job(TREE, tmp_path, 7), ready.logits)
    assert again.artifact.sha256 == record.artifact.sha256


def test_test_accuracy_is_of_the_test_part(study):
    folder, _, record = study
    scored = trial.score_test(str(folder / "trials" / "00007"))
    data = scoring.data_of(parse_recipe(TREE, REGISTRIES))
    assert scored["n"] == len(data.test[1]) and 0.8 < scored["accuracy"] <= 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"train": {"epochs": 2, "lr": 1e30}}, "nonfinite"),
        ({"student": {"model": "tests.no_such_module:net"}}, "cannot import"),
    ],
)
def test_failure_is_data_with_a_reason(change, reason, tmp_path):
    record = trial.run(job({**TREE, **change}, tmp_path / "t", 3))
    assert record.status == "failed" and reason in record.reason
    assert json.loads((tmp_path / "t" / "record.json").read_text())["reason"] == record.reason
    assert not (tmp_path / "t" / "model.onnx").exists()


def test_preparing_an_impossible_task_is_a_space_error(tmp_path):
    with pytest.raises(SpaceError, match="task.name"):
        trial.prepare([{**TREE, "task": {"name": "tests.no_such_module:data"}}], str(tmp_path / "s"))
    assert not (tmp_path / "s").exists()


def test_production_keeps_or_breaks_its_promise(tmp_path):
    recipe = parse_recipe({**TREE, "teacher": None, "distill": {"kind": "none"}}, REGISTRIES)
    made = production.train(
        recipe,
        tmp_path / "out",
        epochs=8,
        promise={"accuracy": 0.5, "size_bytes": 100, "latency_ms": 1e3, "latency_interval_ms": [900.0, 1100.0]},
    )
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {
        "model.onnx",
        "recipe.yaml",
        "record.json",
        "model_card.md",
    }
    kept = {c.name: c.kept for c in made.checks}
    assert kept == {"accuracy": True, "size_bytes": False, "latency_ms": True}
    card = (tmp_path / "out" / "model_card.md").read_text()
    assert f"{made.test['accuracy']:.4f}" in card and "| size_bytes | 100 |" in card
    assert load_recipe(tmp_path / "out" / "recipe.yaml").train.epochs == 8


def test_a_failed_production_run_says_why(tmp_path):
    recipe = parse_recipe({**TREE, "train": {"epochs": 1, "lr": 1e30}}, REGISTRIES)
    with pytest.raises(TrialError, match="nonfinite"):
        production.train(recipe, tmp_path / "out")


def test_trials_in_lanes_repeat_alone(study, tmp_path, monkeypatch):
    """Three recipes side by side, through a rung, one of them stopped there; then one alone."""
    from harness.train import lanes

    ready = study[1]
    sizes = []

    def side_by_side(students, *_):
        sizes.append(len(students))
        return "stacked" if len(students) > 1 else "alone"

    monkeypatch.setattr(lanes, "fastest", side_by_side)
    trees = [{**TREE, "train": {**TREE["train"], "lr": lr}, "seed": seed} for seed, lr in enumerate((0.05, 0.1, 0.2))]
    jobs = [job(tree, tmp_path / str(n), n) for n, tree in enumerate(trees)]
    answer = trial.start(jobs, [1], ready.logits)
    assert answer.held and answer.epoch == 1 and set(answer.accuracy) == {0, 1, 2} and not answer.records
    answer_at_rung = answer.accuracy
    answer = trial.go_on({1: "told to"}, [1])
    assert not answer.held and sizes[0] == 3 and max(sizes[1:]) == 2
    records = {r.number: r for r in answer.records}
    assert records[1].status == "stopped" and records[1].reason == "told to" and records[1].diagnostics["epochs"] == 1
    assert [records[n].diagnostics["rungs"] for n in range(3)] == [{"1": answer_at_rung[n]} for n in range(3)]
    assert read_record(tmp_path / "1") == records[1] and not (tmp_path / "1" / "model.onnx").exists()
    alone = trial.run(job(trees[2], tmp_path / "9", 9), ready.logits)
    n = alone.measurements["accuracy"].conditions["n"]
    assert alone.structure == records[2].structure
    assert alone.value("size_bytes") == records[2].value("size_bytes")
    assert abs(alone.value("accuracy") - records[2].value("accuracy")) <= 2 / n


@pytest.mark.parametrize("kept", [True, False])
def test_a_stopped_trial_that_goes_on_is_the_one_that_never_stopped(study, tmp_path, monkeypatch, kept):
    """From the student that the worker keeps, or from the start where that worker is gone."""
    monkeypatch.setattr(trial, "_PAUSED", {})
    logits, tree = study[1].logits, {**TREE, "prune": {"kind": "channel", "ratio": 0.4, "at": 0.1}}
    jobs = [job(tree, tmp_path / str(n), n) for n in (3, 4)]
    trial.start(jobs[:1], [1, 2], logits)
    stopped = trial.go_on({3: "told to"}, [1, 2], keep=True).records[0]
    assert list(trial._PAUSED) == [3]
    if not kept:
        trial._PAUSED.clear()
    rungs = {int(e): a for e, a in stopped.diagnostics["rungs"].items()}
    answer = trial.start([replace(jobs[1], continues=3, rungs=rungs)], [2], logits)
    assert answer.held and answer.epoch == 2 and not trial._PAUSED
    record = trial.go_on({}, [1, 2]).records[0]
    whole = trial.run(job(tree, tmp_path / "9", 9), logits)
    assert record.number == 4 and record.status == "ok" and record.artifact.sha256 == whole.artifact.sha256
    epochs = tree["train"]["epochs"]
    assert record.diagnostics["continues"] == 3 and record.diagnostics["epochs"] == epochs - (1 if kept else 0)
    assert list(record.diagnostics["rungs"]) == ["1", "2"] and record.diagnostics["rungs"]["1"] == rungs[1]
    history = (tmp_path / "4" / "history.csv").read_text()
    assert history == (tmp_path / "9" / "history.csv").read_text() and len(history.splitlines()) == epochs + 1


def test_students_are_kept_up_to_a_size_on_tensors_of_their_own(study, tmp_path, monkeypatch):
    from harness.train import lanes

    monkeypatch.setattr(trial, "_PAUSED", {})
    monkeypatch.setattr(lanes, "fastest", lambda students, *_: "stacked" if len(students) > 1 else "alone")
    trees = [{**TREE, "train": {**TREE["train"], "lr": lr}, "seed": seed} for seed, lr in enumerate((0.05, 0.1, 0.2))]
    jobs = [job(tree, tmp_path / str(n), n) for n, tree in enumerate(trees)]
    trial.start(jobs, [1], study[1].logits)
    state, one = trial._OPENED[0].student.state, trial._bytes(trial._OPENED[0].student)
    assert state.params.untyped_storage().nbytes() > state.params.nbytes, "a part of what the lanes share"
    monkeypatch.setattr(trial, "PAUSED_BYTES", 2.5 * one)
    trial.go_on({0: "told to", 1: "told to", 2: "told to"}, [1], keep=True)
    assert list(trial._PAUSED) == [1, 2], "the latest"
    kept = trial._PAUSED[1].student.state
    assert kept.params.untyped_storage().nbytes() == kept.params.nbytes
    assert one > kept.params.nbytes * 3, "its moments and its module count too"
    assert trial._PAUSED[1].student.examples.x.untyped_storage().nbytes() == 0, "what all share is not kept"


@pytest.mark.parametrize("bits", [32, 8, 3])
@pytest.mark.parametrize("ratio", [0.0, 0.4])
def test_what_a_recipe_costs_is_known_before_it_trains(tmp_path, bits, ratio):
    tree = {
        **TREE,
        "train": {**TREE["train"], "epochs": 1},
        "quant": {"bits": bits, "start": 0.0},
        "prune": {"kind": "channel", "ratio": ratio, "at": 0.0},
    }
    before = trial.untrained(parse_recipe(tree, REGISTRIES), tmp_path / "before")
    record = trial.run(job(tree, tmp_path / "after", 1))
    assert before.structure == record.structure
    assert before.size_bytes == record.value("size_bytes")


def test_a_rung_takes_few_samples_where_validation_is_large(tmp_path):
    recipe = parse_recipe(TREE, REGISTRIES)
    assert len(scoring.rung_part(recipe, "cpu")[1]) == len(scoring.data_of(recipe).validation[1])
    task = {"name": "arrays", "validation": 0.5}
    for part, n in (("train", 9000), ("test", 300)):
        task[part] = str(tmp_path / f"{part}.npz")
        images = np.random.default_rng(n).integers(0, 255, (n, 1, 4, 4)).astype(np.uint8)
        np.savez(task[part], x=images, y=np.arange(n) % 3)
    recipe = parse_recipe({**TREE, "task": task}, REGISTRIES)
    x, y = scoring.rung_part(recipe, "cpu")
    assert len(x) == len(y) == scoring.RUNG_SAMPLES
    assert torch.bincount(y).min() > 0.25 * len(y), "of all classes"
    assert scoring.rung_part(recipe, "cpu")[1] is y, "the same at every rung"


def test_what_a_worker_answers_is_read_without_torch(study):
    """The driver imports no torch; a value of one of torch's types would have it imported there."""
    _, ready, record = study
    for value in (ready, Answer([record])):
        texts = {arg for _, arg, _ in pickletools.genops(pickle.dumps(value)) if isinstance(arg, str)}
        assert not [text for text in texts if text.split(".")[0] == "torch" and "." in text]
