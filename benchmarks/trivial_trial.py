"""A trial module whose trials take no time, to measure the orchestration alone."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from harness.files.access import write_bytes_durably
from harness.recipe import Recipe
from harness.records import UNTRAINED, Measurement, TrialRecord, describe_file, write_json_durably, write_record
from harness.trial.job import Answer, Cost, Prepared, Proven, TrialJob


def examine(*given: Any) -> list[dict[str, Any]]:
    return []


def prove(trees: list[dict[str, Any]]) -> Proven:
    return Proven()


def fingerprint(tree: Mapping[str, Any]) -> dict[str, str]:
    return {}


def prepare(trees: list[dict[str, Any]], folder: str, device: str = "cpu") -> Prepared:
    return Prepared({}, 2, 0.5)


def start(jobs: Sequence[TrialJob], rungs: Any, logits: Any, device: str = "cpu") -> Answer:
    return Answer([_trial(job) for job in jobs])


def untrained(recipe: Recipe, folder: Path, device: str = "cpu") -> Cost:
    path = folder / UNTRAINED
    write_bytes_durably(path, _file())
    return Cost("one", path.stat().st_size, path.name)


def _file() -> bytes:
    weight = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["b", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 4])],
        initializer=[weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


def _trial(job: TrialJob) -> TrialRecord:
    """Write a file and a record as a real trial does, and the times into the study's ``times``."""
    started, path, number = time.time(), job.folder, job.number
    write_bytes_durably(path / "model.onnx", _file())
    made = {"status": "ok", "artifact": describe_file(path / "model.onnx", "onnx"), "structure": "one"}
    record = job.record().model_copy(update=made)
    record = record.with_measurements(
        Measurement(name="accuracy", unit="1", values=[0.5 + number / 1e4]),
        Measurement(name="size_bytes", unit="B", values=[1000.0 + hash(str(job.params)) % 1000]),
    )
    write_record(path, record)
    times = {"worker": os.getpid(), "started": started, "ended": time.time()}
    write_json_durably(path.parent.parent / "times" / f"{number}.json", times)
    return record


def score_test(folder: str) -> dict[str, float]:
    return {"accuracy": 0.5, "n": 1.0}
