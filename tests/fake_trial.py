"""A trial module without torch: what the driver's tests run in place of training.

Accuracy and size follow from the recipe; ``HARNESS_FAKE`` names a folder where every started trial
leaves a line and every importing process a file ``imported-PID`` (after ``HARNESS_FAKE_IMPORT_S``
seconds), and holds switches: a file ``die-N`` kills the worker of trial N once (after its record is
written, or ``before`` when the file says so), ``hang-N`` keeps it from ending, ``fail-N`` fails it.
``HARNESS_FAKE_PREPARE_S`` is how long preparing takes, which a file ``preparing`` announces.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from harness.errors import SpaceError, TrialError
from harness.records import (
    Measurement,
    TrialRecord,
    describe_file,
    write_bytes_durably,
    write_checked_json,
    write_record,
)

if "HARNESS_FAKE" in os.environ:
    time.sleep(float(os.environ.get("HARNESS_FAKE_IMPORT_S", "0")))
    Path(os.environ["HARNESS_FAKE"], f"imported-{os.getpid()}").touch()


def examine(trees, wanted, allow_weak):
    return []


def prove(trees):
    return {"left_alone": {}, "whole": []}


def fingerprint(tree):
    box = Path(os.environ["HARNESS_FAKE"])
    return {"train x": (box / "data").read_text() if (box / "data").exists() else "(100, 8, 8) float32"}


def prepare(trees, folder, device="cpu"):
    if trees[0]["task"].get("split_seed") == 13:
        raise SpaceError("task.split_seed", "brings bad luck", 13)
    if "HARNESS_FAKE_PREPARE_S" in os.environ:
        Path(os.environ["HARNESS_FAKE"], "preparing").touch()
        time.sleep(float(os.environ["HARNESS_FAKE_PREPARE_S"]))
    write_checked_json(
        Path(folder) / "teacher.json",
        {"model": "convnet", "accuracy": 0.99, "size_bytes": 9999, "path": "teacher/model.onnx"},
    )
    write_bytes_durably(Path(folder) / "teacher" / "model.onnx", tiny_model(40))
    return {"logits": {"t": np.zeros((4, 2), np.float32)}, "classes": 2, "chance": 0.5}


def tiny_model(width: int) -> bytes:
    weight = numpy_helper.from_array(np.zeros((4, width), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["b", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", width])],
        initializer=[weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.ModelProto.SerializeToString(model, deterministic=True)


OPEN: dict = {}


def start(jobs, rungs, logits, device="cpu"):
    OPEN.clear()
    OPEN.update({job["number"]: [job, max(map(int, job.get("rungs", {})), default=0)] for job in jobs})
    for job in jobs:
        assert all(epoch > max(job.get("rungs", {0: 0})) for epoch in rungs), "rungs that the trial has passed"
    with open(Path(os.environ["HARNESS_FAKE"]) / "groups", "a") as file:
        file.write(" ".join(str(job["number"]) for job in jobs) + "\n")
    return go_on({}, rungs)


def go_on(stops, rungs, keep=False, device="cpu"):
    """Accuracy rises along the epochs towards what :func:`run` will find. A trial that continues another
    goes on where that one stood."""
    records = []
    for number, reason in stops.items():
        job, epoch = OPEN.pop(number)
        record = base_of(job["tree"], number, job["params"], job["baseline"])
        seen = diagnostics_of(job, [e for e in rungs if e <= epoch], epoch)
        record = record.model_copy(update={"status": "stopped", "reason": reason, "diagnostics": seen})
        write_record(Path(job["folder"]), record)
        (Path(job["folder"]) / "untrained.onnx").unlink(missing_ok=True)
        records.append(record.model_dump(mode="json"))
    done = max((epoch for _, epoch in OPEN.values()), default=0)
    reached = next((epoch for epoch in rungs if epoch > done), None)
    if OPEN and reached is not None:
        OPEN.update({n: [job, reached] for n, (job, _) in OPEN.items()})
        now = {n: accuracy_at(job["tree"], reached) for n, (job, _) in OPEN.items()}
        return {"held": True, "epoch": reached, "accuracy": now, "records": records}
    for number in list(OPEN):
        job = OPEN.pop(number)[0]
        records.append(
            run(job["tree"], number, job["params"], job["baseline"], job["folder"], {}, rungs=rungs, job=job)
        )
    return {"held": False, "records": records}


def diagnostics_of(job, rungs, epochs):
    """Of a trial that trained to ``epochs``, what it had trained as another included."""
    before = {int(epoch): found for epoch, found in job.get("rungs", {}).items()}
    own = {epoch: accuracy_at(job["tree"], epoch) for epoch in rungs}
    continues = {"continues": job["continues"]} if "continues" in job else {}
    curve = {str(epoch): found for epoch, found in (own | before).items()}
    return {"epochs": epochs - max(before, default=0), "rungs": curve, **continues}


def untrained(tree, folder, device="cpu"):
    width = tree["student"]["width"]
    path = Path(folder) / "untrained.onnx"
    write_bytes_durably(path, tiny_model(width))
    return {"structure": f"w{width}", "size_bytes": path.stat().st_size, "path": path.name}


def accuracy_of(tree):
    return 1 - 1 / (2 + tree["student"]["width"] * min(tree["quant"]["bits"], 8) / 8) + 0.01 * tree["train"]["lr"]


def accuracy_at(tree, epoch):
    return accuracy_of(tree) * (1 - 0.5 / (1 + epoch))


def base_of(tree, number, params, baseline):
    return TrialRecord(
        number=number, status="failed", baseline=baseline, recipe=dict(tree), params=dict(params), seed=tree["seed"]
    )


def run(tree, number, params, baseline, folder, logits, device="cpu", rungs=(), job=None):
    box = Path(os.environ["HARNESS_FAKE"])
    with open(box / "started", "a") as file:
        file.write(f"{number}\n")
    time.sleep(float(os.environ.get("HARNESS_FAKE_S", "0")))
    if (box / f"hang-{number}").exists():
        time.sleep(600)
    switch = box / f"die-{number}"
    base = base_of(tree, number, params, baseline)
    path = Path(folder)
    if (box / f"fail-{number}").exists():
        record = base.model_copy(update={"reason": str(TrialError("nonfinite: told to"))})
        write_record(path, record)
        return record.model_dump(mode="json")
    if switch.exists() and "before" in switch.read_text():
        switch.unlink()
        os._exit(9)
    width, accuracy = tree["student"]["width"], accuracy_of(tree)
    write_bytes_durably(path / "model.onnx", tiny_model(width))
    (path / "untrained.onnx").unlink(missing_ok=True)
    seen = diagnostics_of(job or {"tree": tree}, rungs, tree["train"]["epochs"])
    base = base.model_copy(update={"diagnostics": seen})
    record = base.model_copy(
        update={"status": "ok", "artifact": describe_file(path / "model.onnx", "onnx"), "structure": f"w{width}"}
    )
    record = record.with_measurements(
        Measurement(name="accuracy", unit="1", values=[accuracy], conditions={"n": 100}),
        Measurement(name="size_bytes", unit="B", values=[float(record.artifact.size_bytes)]),
    )
    write_record(path, record)
    if switch.exists():
        switch.unlink()
        os._exit(9)
    return record.model_dump(mode="json")


def score_test(folder):
    with open(Path(os.environ["HARNESS_FAKE"]) / "tested", "a") as file:
        file.write(f"{Path(folder).name}\n")
    return {"accuracy": 0.5, "n": 10.0}
