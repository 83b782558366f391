"""Latencies of one study, taken in sessions on a machine whose speed changes between them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.machine.host import environment
from harness.records import Artifact, Measurement, TrialRecord
from harness.search.latencies import Latencies
from harness.space.space import load_space

HOST = environment()["host"]


class Machine:
    """A lab on a machine of some speed: a file takes a ms per byte of its content."""

    def __init__(self) -> None:
        self.speed = 1.0

    def measure(self, paths, reference, runtime, batch_size, threads, budget_s, until_precise=False):
        def takes(path: Path) -> float:
            return path.stat().st_size * batch_size / self.speed

        conditions = {"runtime": runtime, "batch_size": batch_size, "threads": threads, "host": HOST}
        conditions |= {"reference_ms": takes(reference), "options": environment()["session_options"]}
        return [Measurement(name="latency_ms", unit="ms", values=[takes(p)], conditions=conditions) for p in paths]


def record(folder: Path, number: int, size: int, batch: int = 1) -> TrialRecord:
    """A trial of its own structure whose file has ``size`` bytes."""
    path = folder / "trials" / f"{number:05d}" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return TrialRecord(
        number=number,
        status="ok",
        recipe={"deploy": {"runtime": "onnxruntime", "batch_size": batch, "threads": 1}},
        params={},
        seed=0,
        structure=f"s{size}",
        artifact=Artifact(path="model.onnx", sha256="0" * 64, size_bytes=size, format="onnx"),
    )


def timed(latencies: Latencies, folder: Path, number: int, size: int, batch: int = 1) -> TrialRecord:
    one = record(folder, number, size, batch)
    latencies.measure([one], folder)
    return latencies.complete(one, folder / "trials" / f"{number:05d}")


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_session_on_a_faster_machine_is_brought_to_the_speed_on_record(tmp_path: Path, machine: Machine) -> None:
    latencies = Latencies(machine, tmp_path)
    widest = timed(latencies, tmp_path, 0, 100)
    latencies.use_reference(widest, tmp_path / "trials" / "00000" / "model.onnx")
    assert timed(latencies, tmp_path, 1, 50).value("latency_ms") == 50
    machine.speed = 1.6
    fast = timed(latencies, tmp_path, 2, 40)
    assert fast.value("latency_ms") == pytest.approx(40)
    conditions = fast.measurements["latency_ms"].conditions
    assert conditions["reference_ms"] == 100


def test_the_teacher_is_timed_beside_the_reference(tmp_path: Path, machine: Machine) -> None:
    latencies = Latencies(machine, tmp_path)
    widest = timed(latencies, tmp_path, 0, 100)
    assert not latencies.has_reference
    latencies.use_reference(widest, tmp_path / "trials" / "00000" / "model.onnx")
    assert latencies.has_reference
    (tmp_path / "teacher.onnx").write_bytes(bytes(300))
    (tmp_path / "teacher.json").write_text('{"path": "teacher.onnx"}')
    machine.speed = 0.7
    (tmp_path / "space.yaml").write_text(
        "task: {name: digits}\nteacher: {model: mlp}\nstudent: {model: mlp}\ntrain: {lr: {float: [0.1, 0.2]}}\n"
    )
    latencies.teacher(load_space(tmp_path / "space.yaml"), tmp_path)
    found = json.loads((tmp_path / "teacher.json").read_text())
    assert found["latency_ms"] == pytest.approx(300)
    assert found["latency_interval_ms"] == pytest.approx([300, 300])


def test_other_settings_have_a_record_of_their_own_and_a_resumed_search_knows_it(
    tmp_path: Path, machine: Machine
) -> None:
    latencies = Latencies(machine, tmp_path)
    widest = timed(latencies, tmp_path, 0, 100)
    latencies.use_reference(widest, tmp_path / "trials" / "00000" / "model.onnx")
    assert timed(latencies, tmp_path, 1, 50, batch=8).value("latency_ms") == 400
    machine.speed = 0.5
    resumed = Latencies(machine, tmp_path)
    resumed.use_reference(widest, tmp_path / "trials" / "00000" / "model.onnx")
    assert timed(resumed, tmp_path, 2, 30, batch=8).value("latency_ms") == pytest.approx(240)
    assert timed(resumed, tmp_path, 3, 30).value("latency_ms") == pytest.approx(30)
