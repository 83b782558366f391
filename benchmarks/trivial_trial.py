"""A trial module whose trials cost nothing: what is left is the orchestration."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from harness.records import (
    Measurement,
    TrialRecord,
    describe_file,
    write_bytes_durably,
    write_json_durably,
    write_record,
)


def examine(*given: Any) -> list[dict[str, Any]]:
    return []


def prove(trees: list[dict[str, Any]]) -> dict[str, Any]:
    return {"left_alone": {}, "whole": []}


def fingerprint(tree: Mapping[str, Any]) -> dict[str, str]:
    return {}


def prepare(trees: list[dict[str, Any]], folder: str, device: str = "cpu") -> dict[str, Any]:
    return {"logits": {}, "classes": 2, "chance": 0.5}


def start(jobs: Sequence[Mapping[str, Any]], rungs: Any, logits: Any, device: str = "cpu") -> dict[str, Any]:
    return {"held": False, "records": [_trial(**job) for job in jobs]}


def untrained(tree: Mapping[str, Any], folder: str, device: str = "cpu") -> dict[str, Any]:
    path = Path(folder) / "untrained.onnx"
    write_bytes_durably(path, _file())
    return {"structure": "one", "size_bytes": path.stat().st_size, "path": path.name}


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


def _trial(tree: Mapping[str, Any], number: int, params: Any, baseline: str, folder: str) -> dict[str, Any]:
    """Write a file and a record, as a real trial does; the times go into the study's ``times``."""
    started, path = time.time(), Path(folder)
    write_bytes_durably(path / "model.onnx", _file())
    record = TrialRecord(
        number=number,
        status="ok",
        baseline=baseline,
        recipe=dict(tree),
        params=params,
        seed=tree["seed"],
        artifact=describe_file(path / "model.onnx", "onnx"),
        structure="one",
    )
    record = record.with_measurements(
        Measurement(name="accuracy", unit="1", values=[0.5 + number / 1e4]),
        Measurement(name="size_bytes", unit="B", values=[1000.0 + hash(str(params)) % 1000]),
    )
    write_record(path, record)
    times = {"worker": os.getpid(), "started": started, "ended": time.time()}
    write_json_durably(path.parent.parent / "times" / f"{number}.json", times)
    return record.model_dump(mode="json")


def score_test(folder: str) -> dict[str, float]:
    return {"accuracy": 0.5, "n": 1.0}
