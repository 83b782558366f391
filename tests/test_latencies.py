"""Latencies of one study, taken in sessions on a machine whose speed changes between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.deploy.machine import environment
from harness.records import Artifact, Measurement, TrialRecord
from harness.search.latencies import Latencies

HOST = environment()["host"]


class Machine:
    """A lab on a machine of some speed: a file takes a ms per byte of its content."""

    def __init__(self) -> None:
        self.speed = 1.0

    def measure(self, paths, reference, runtime, batch_size, threads, budget_s, until_precise=False):
        def takes(path: Path) -> float:
            return path.stat().st_size * batch_size / self.speed

        conditions = {"runtime": runtime, "batch_size": batch_size, "threads": threads, "host": HOST}
        conditions["reference_ms"] = [takes(reference)]
        return [Measurement(name="latency_ms", unit="ms", values=[takes(p)], conditions=conditions) for p in paths]


def record(folder: Path, number: int, size: int, batch: int = 1) -> TrialRecord:
    """A trial of its own structure whose file has ``size`` bytes."""
    path = folder / f"{number:05d}" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
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
    return latencies.complete(one, folder / f"{number:05d}")


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_session_on_a_faster_machine_is_brought_to_the_speed_on_record(tmp_path: Path, machine: Machine) -> None:
    latencies = Latencies(machine, tmp_path)
    widest = timed(latencies, tmp_path, 0, 100)
    latencies.use_reference(widest, tmp_path / "00000" / "model.onnx")
    assert timed(latencies, tmp_path, 1, 50).value("latency_ms") == 50
    machine.speed = 1.6
    fast = timed(latencies, tmp_path, 2, 40)
    assert fast.value("latency_ms") == pytest.approx(40)
    conditions = fast.measurements["latency_ms"].conditions
    assert conditions["reference_ms"] == 100 and conditions["unscaled_ms"] == 25


def test_a_machine_that_changes_its_speed_within_a_session_is_followed(tmp_path: Path) -> None:
    class Moody(Machine):
        def measure(self, paths, *others, **options):
            one = super().measure(paths, *others, **options)
            speeds = [1.0, 1.5, 1.5]
            return [
                m.model_copy(
                    update={
                        "values": [m.median / s for s in speeds],
                        "conditions": m.conditions
                        | {"reference_ms": [m.conditions["reference_ms"][0] / s for s in speeds]},
                    }
                )
                for m in one
            ]

    latencies = Latencies(Moody(), tmp_path)
    widest = timed(latencies, tmp_path, 0, 100)
    latencies.use_reference(widest, tmp_path / "00000" / "model.onnx")
    found = timed(latencies, tmp_path, 1, 50).measurements["latency_ms"]
    assert max(found.values) == pytest.approx(min(found.values))
    assert found.median == pytest.approx(widest.value("latency_ms") / 2)


def test_other_settings_have_a_record_of_their_own_and_a_resumed_search_knows_it(
    tmp_path: Path, machine: Machine
) -> None:
    latencies = Latencies(machine, tmp_path)
    widest = timed(latencies, tmp_path, 0, 100)
    latencies.use_reference(widest, tmp_path / "00000" / "model.onnx")
    assert timed(latencies, tmp_path, 1, 50, batch=8).value("latency_ms") == 400
    machine.speed = 0.5
    resumed = Latencies(machine, tmp_path)
    resumed.use_reference(widest, tmp_path / "00000" / "model.onnx")
    assert timed(resumed, tmp_path, 2, 30, batch=8).value("latency_ms") == pytest.approx(240)
    assert timed(resumed, tmp_path, 3, 30).value("latency_ms") == pytest.approx(30)
