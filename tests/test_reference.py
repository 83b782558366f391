"""The hypervolume's reference: every baseline and every point of a front is better than it."""

import json
from pathlib import Path

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.engine_vs_peers import Row, Scored, reference_of
from harness.files.access import write_bytes_durably
from harness.files.checksums import read_whole, write_checked_json
from harness.records import Measurement, describe_file, read_json, write_record
from harness.report import load_study, write_report
from harness.report.compare import common_reference, load_contenders
from harness.report.fronts import comparison, hypervolume
from harness.report.page import summary
from harness.stats.pareto import log_hypervolume, reference_point
from tests import fake_trial
from tests.searching import SPACE, FakeLab, search_here, space_of

NAMES = ("accuracy", "size_bytes", "f1")
DIRECTIONS = ("maximize", "minimize", "maximize")
VALUES = st.lists(
    st.tuples(st.sampled_from([0.05, 0.1, 0.5, 0.9]), st.sampled_from([500.0, 1000.0, 9000.0]), st.floats(-1, 1)),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(VALUES)
def test_every_row_counts(rows):
    """By moocore: the volume of each row alone is positive."""
    values = np.array(rows)
    point = reference_point(values, NAMES, DIRECTIONS, {"accuracy": 0.1})
    assert point["size_bytes"] == 1.5 * values[:, 1].max()
    assert (point["accuracy"] == 0.1) == (values[:, 0] > 0.1).all()
    end = np.array([-point["accuracy"], np.log(point["size_bytes"]), -point["f1"]])
    losses = np.column_stack([-values[:, 0], np.log(values[:, 1]), -values[:, 2]])
    for row in losses:
        assert moocore.hypervolume(row.reshape(1, -1), ref=end) > 0
    assert log_hypervolume(values, point, DIRECTIONS) == pytest.approx(moocore.hypervolume(losses, ref=end))


def test_a_bound_that_a_row_only_equals_is_moved():
    """Chance accuracy itself: a point at it would add nothing. Without a range, by a tenth."""
    found = reference_point(np.array([[0.1, 10.0]]), ["accuracy", "latency_ms"], ["maximize", "minimize"], {})
    assert found == pytest.approx({"accuracy": 0.0, "latency_ms": 15.0})
    values = np.array([[0.1, 10.0], [0.9, 30.0]])
    found = reference_point(values, ["accuracy", "latency_ms"], ["maximize", "minimize"], {"accuracy": 0.1})
    assert found == pytest.approx({"accuracy": 0.02, "latency_ms": 45.0})


class SlowIntegers(FakeLab):
    """A runtime on which integers take twice as long as float32."""

    def measure(self, paths, reference, runtime, batch_size, threads, budget_s, until_precise=False):
        self.timed += [str(p) for p in paths]
        records = [read_json(p.parent / "record.json") for p in paths]  # the teacher has none
        bits = [r["recipe"]["quant"]["bits"] if r else 32 for r in records]
        beside = {"reference_ms": 1.0}
        taken = [1.0 if b == 32 else 2.0 for b in bits]
        return [Measurement(name="latency_ms", unit="ms", values=[ms], conditions=beside) for ms in taken]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """One width; files of integers are smaller and on another structure, so timed by themselves."""
    real = fake_trial.run

    def run(job, *args, **options):
        record, bits = real(job, *args, **options), job.recipe.quant.options["bits"]
        if bits < 32:
            path = job.folder / "model.onnx"
            write_bytes_durably(path, fake_trial.tiny_model(bits))
            made = describe_file(path, "onnx")
            size = Measurement(name="size_bytes", unit="B", values=[float(made.size_bytes)])
            record = record.with_measurements(size).model_copy(update={"artifact": made, "structure": f"i{bits}"})
            write_record(job.folder, record)
        return record

    monkeypatch.setenv("HARNESS_FAKE", str(tmp_path))
    monkeypatch.setattr(fake_trial, "run", run)
    monkeypatch.setattr(fake_trial, "score_test", lambda folder: {"accuracy": 0.9, "n": 10.0})
    text = SPACE.replace("{choice: [4, 8, 16]}", "64")
    folder = tmp_path / "study"
    search_here(space_of(tmp_path, text=text), folder, lab=SlowIntegers)
    return folder


def test_files_of_slow_integers_count(study):
    """They lay beyond 1.5 times the fp32 student's latency, so 0.000 stood against 0.000."""
    data = load_study(study)
    small = data.front[data.front["size_bytes"] < data.widest["size_bytes"]]
    assert len(small) and (small["latency_ms"] == 2 * data.widest["latency_ms"]).all()
    for number in {*data.front.index, *data.finished.index[data.finished["baseline"] != ""]}:
        assert hypervolume(data.finished.loc[[number]], data) > 0
    found = comparison(data)
    assert found["searched"] > found["sweep"] > 0 and found["beats"]
    assert not any("bought nothing" in sentence for sentence in summary(data))
    point = json.loads((study / "study.json").read_text())["reference"]
    assert point == pytest.approx(
        {"accuracy": 0.5, "size_bytes": 1.5 * data.widest["size_bytes"], "latency_ms": 3 * data.widest["latency_ms"]}
    )
    page = write_report(data).read_text()
    assert "every baseline and every point of the front is better than that" in page and "50.00 %" in page


def test_a_study_whose_reference_was_too_near_is_read_with_one_that_is_not(study):
    told = read_whole(study / "study.json")
    told["reference"] = {"accuracy": 0.5, "size_bytes": 1.0, "latency_ms": 1.5}
    write_checked_json(study / "study.json", told)
    data = load_study(study)
    assert all(hypervolume(data.front.loc[[n]], data) > 0 for n in data.front.index)
    assert all(curve[-1].volume > 0 for c in load_contenders([str(study)]) for curve in c.curves)


def test_points_at_chance_on_test_count_too(study):
    """A comparison takes the volume of test accuracies."""
    scores = read_whole(study / "test.json")
    write_checked_json(study / "test.json", {n: {**found, "accuracy": 0.5} for n, found in scores.items()})
    data = load_study(study)
    assert common_reference([data])["accuracy"] < 0.5
    rows = data.front.assign(accuracy=data.front["test_accuracy"])
    assert all(hypervolume(rows.loc[[n]], data) > 0 for n in rows.index)


def test_contenders_side_by_side_share_one_that_all_fronts_and_baselines_count_under():
    widest = Scored(1.0, (0.8, 9000.0, 0.02), (0.7, 9000.0, 0.02))
    slow = Scored(2.0, (0.9, 500.0, 0.05), (0.85, 500.0, 0.05))
    large = Scored(3.0, (0.95, 20_000.0, 0.01), (0.05, 20_000.0, 0.01))  # of another contender, by chance on test
    beaten = Scored(4.0, (0.2, 90_000.0, 0.9))
    rows = {"ours": [Row(1.0, 0.8, Path("a"), baseline=True), Row(2.0, 0.9, Path("b"))]}
    told = {"ours": [widest, slow], "peer": [large, beaten]}
    point = reference_of(rows, told)
    assert point[1:] == (1.5 * 20_000, 1.5 * 0.05) and point[0] < 0.05
    for one in (widest, slow, large):
        for values in (one.validation, one.test):
            assert values[0] > point[0] and values[1] < point[1] and values[2] < point[2]
