"""A trial module whose trials cost nothing: what is left is the orchestration."""

from __future__ import annotations

import os
import time
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


def prepare(trees: list[dict[str, Any]], folder: str, device: str = "cpu") -> dict[str, Any]:
    return {"logits": {}, "classes": 2, "chance": 0.5}


def run(
    tree: dict[str, Any],
    number: int,
    params: dict[str, Any],
    baseline: str,
    folder: str,
    logits: Any,
    device: str = "cpu",
) -> dict[str, Any]:
    """Write a file and a record, as a real trial does; the times go into the study's ``times``."""
    started = time.time()
    path = Path(folder)
    weight = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["b", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 4])],
        initializer=[weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    write_bytes_durably(path / "model.onnx", model.SerializeToString())
    record = TrialRecord(
        number=number,
        status="ok",
        baseline=baseline,
        recipe=tree,
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
