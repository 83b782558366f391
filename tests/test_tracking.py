"""`track:`: every trial of a search is logged, and no error of a tracker ends a search."""

from __future__ import annotations

import csv
import struct
import threading
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from harness.errors import SpaceError
from harness.records import read_record
from harness.search import tracking
from harness.search.tracking import Tracking, open_trackers
from harness.space.space import load_space
from harness.trackers.tracker import TrackedTrial
from tests.searching import SPACE, run, search_here, space_of


class Mine:
    """A tracker of another package."""

    opened: list[Mine] = []

    def __init__(self, study: str, folder: Path) -> None:
        self.study, self.folder = study, folder
        self.trials: list[TrackedTrial] = []
        self.status, self.thread = "", ""
        Mine.opened.append(self)

    def trial(self, trial: TrackedTrial) -> None:
        self.trials.append(trial)
        self.thread = threading.current_thread().name

    def close(self, status: str) -> None:
        self.status = status


class Broken(Mine):
    def trial(self, trial: TrackedTrial) -> None:
        super().trial(trial)
        raise RuntimeError("the server is away")


class Exits(Mine):
    def trial(self, trial: TrackedTrial) -> None:
        raise SystemExit(3)


class Changes(Mine):
    def trial(self, trial: TrackedTrial) -> None:
        vars(trial)["recipe"].clear()


class ExitsAtOnce:
    def __init__(self, study: str, folder: Path) -> None:
        raise SystemExit(7)


class Absent:
    def __init__(self, study: str, folder: Path) -> None:
        raise ModuleNotFoundError("No module named 'mlflow'")


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    Mine.opened = []
    kinds = (Mine, Broken, Exits, Changes, ExitsAtOnce, Absent)
    points = [EntryPoint(kind.__name__.lower(), f"{__name__}:{kind.__name__}", "") for kind in kinds]
    monkeypatch.setattr(tracking, "entry_points", lambda group: points if group == "harness.trackers" else [])


def tracked(box: Path, *names: str) -> Any:
    return search_here(space_of(box, "search.trials=8", text=f"{SPACE}track: [{', '.join(names)}]\n"), box / "study")


def test_a_tracker_gets_each_trial_with_its_values(box, trackers):
    outcome = tracked(box, "mine")
    [mine] = Mine.opened
    assert (mine.study, mine.folder, mine.status) == ("study", box / "study", "complete")
    assert mine.thread == "trackers", "a slow tracker must not slow the driver"
    assert sorted(t.number for t in mine.trials) == list(range(8))
    for trial in mine.trials:
        record = read_record(box / "study" / "trials" / f"{trial.number:05d}")
        assert record is not None
        assert trial.metrics == {name: m.median for name, m in record.measurements.items()}
        assert trial.params["quant.bits"] == record.recipe["quant"]["bits"]
        assert trial.recipe["task.name"] == "digits" and "task.name" not in trial.params
        assert trial.file == record.file(box / "study" / "trials" / f"{trial.number:05d}")
    assert {t.number for t in mine.trials if t.on_front} >= set(outcome.front)


def test_curves_are_the_rows_of_the_history(tmp_path):
    history = tmp_path / "history.csv"
    history.write_text("epoch,loss,clipped_share\n1,2.5,0.0\n2,nan,0.5\n")
    rows = [{"epoch": 1, "loss": 2.5, "clipped_share": 0}, {"epoch": 2, "clipped_share": 0.5}]
    assert tracking._curve(history) == rows
    for text in ("", "epoch\nx\n", "\0"):
        history.write_text(text)
        assert tracking._curve(history) == []
    assert tracking._curve(tmp_path / "absent.csv") == []


def test_an_error_of_a_tracker_is_said_once_and_ends_nothing(box, trackers, caplog):
    assert tracked(box, "broken", "mine").finished == 8
    broken, mine = Mine.opened
    assert len(broken.trials) == 1 and len(mine.trials) == 8
    [said] = [r.getMessage() for r in caplog.records if "tracker" in r.getMessage()]
    assert said == "tracker broken: RuntimeError: the server is away; it logs no more"


def test_what_one_tracker_does_reaches_no_other(box, trackers):
    assert tracked(box, "exits", "changes", "mine").finished == 8
    mine = Mine.opened[-1]
    assert len(mine.trials) == 8 and mine.status == "complete" and all(trial.recipe for trial in mine.trials)


def test_a_tracker_that_hangs_delays_the_end_by_a_limit(monkeypatch, caplog):
    monkeypatch.setattr(tracking, "CLOSE_S", 0.2)
    hung = threading.Event()

    class Hangs(Mine):
        def close(self, status: str) -> None:
            hung.wait(20)

    with Tracking({"hangs": Hangs("s", Path())}):
        pass
    hung.set()
    assert "tracker hangs did not end within 0.2 s" in caplog.text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mien", "no installed package has a tracker of that name, but got 'mien'. Did you mean 'mine'"),
        ("exitsatonce", "track: 'exitsatonce' does not start (SystemExit: 7)"),
        ("absent", "needs a package (No module named 'mlflow'). Install it: pip install 'harness-search[absent]'"),
    ],
)
def test_a_tracker_that_is_not_there_is_named_before_any_trial(box, trackers, name, expected):
    with pytest.raises(SpaceError) as caught:
        tracked(box, name)
    assert expected in str(caught.value) and not (box / "started").exists()


def test_the_key_is_a_name_or_a_list_and_no_part_of_the_study(tmp_path):
    def space(**extra: Any) -> Any:
        sections = {"task": {"name": "digits"}, "student": {"model": "mlp"}, "quant": {"bits": {"choice": [4, 8]}}}
        return load_space({**sections, **extra})

    assert space(track="mlflow").settings.track == ("mlflow",)
    assert space(track=["a", "b", "a"]).settings.track == ("a", "b")
    assert space(track="mlflow").fingerprint() == space().fingerprint()
    for wrong in (3, {"name": "mlflow"}, [1], [""]):
        with pytest.raises(SpaceError, match="track: must be the name of a tracker"):
            space(track=wrong)


def curve_file(box: Path, number: int) -> None:
    """A history for a fake trial, which trains nothing."""
    with open(box / "study" / "trials" / f"{number:05d}" / "history.csv", "w") as file:
        csv.writer(file).writerows([["epoch", "loss"], [1, 2.0], [2, 1.0]])


@pytest.fixture
def trial(box) -> TrackedTrial:
    run(box, "search.trials=5")
    curve_file(box, 4)
    record = read_record(box / "study" / "trials" / "00004")
    assert record is not None
    return Tracking({}, {"student.width", "quant.bits"}, box / "study")._tracked(record, True)


def events(folder: Path) -> list[Any]:
    """The events in a folder's files: records of length, checksum, content, checksum (TFRecord)."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in folder.rglob("events.out*"):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_tensorboard_files_hold_curves_parameters_and_values(box, trial):
    pytest.importorskip("tensorboardX")
    [tracker] = open_trackers(["tensorboard"], box / "study").values()
    tracker.trial(trial)
    tracker.close("complete")
    scalars = {
        (value.tag, event.step): value.simple_value
        for event in events(box / "study" / "tensorboard" / "00004")
        for value in event.summary.value
        if value.HasField("simple_value")
    }
    assert scalars["epoch/loss", 1] == 2.0 and scalars["epoch/loss", 2] == 1.0
    for name, value in trial.metrics.items():
        assert scalars[name, 0] == pytest.approx(value)
    text = b"".join(path.read_bytes() for path in (box / "study" / "tensorboard").rglob("events.out*"))
    assert b"quant.bits" in text and b"student.width" in text


def test_mlflow_has_a_run_per_trial(box, trial, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (box / "runs").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    [tracker] = open_trackers(["mlflow"], box / "study").values()
    tracker.trial(trial)
    tracker.close("complete")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("study")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    found = runs["trial 4"]
    assert found.data.params == {name: str(value) for name, value in trial.params.items()}
    assert {name: found.data.metrics[name] for name in trial.metrics} == pytest.approx(dict(trial.metrics))
    assert [m.value for m in client.get_metric_history(found.info.run_id, "epoch/loss")] == [2.0, 1.0]
    assert found.data.tags["mlflow.parentRunId"] == runs["study"].info.run_id
    assert [f.path for f in client.list_artifacts(found.info.run_id)] == [trial.file.name if trial.file else ""]
    assert found.info.status == runs["study"].info.status == "FINISHED"


def test_wandb_writes_a_run_per_trial(box, trial, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    [tracker] = open_trackers(["wandb"], box / "study").values()
    tracker.trial(trial)
    tracker.trial(trial)
    tracker.close("complete")
    assert len(list((box / "study" / "wandb").glob("offline-run-*"))) == 2
