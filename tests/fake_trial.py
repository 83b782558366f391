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
from harness.files.access import write_bytes_durably
from harness.files.checksums import write_checked_json
from harness.records import UNTRAINED, Measurement, describe_file, write_record
from harness.trial.job import Answer, Cost, Prepared, Proven

if "HARNESS_FAKE" in os.environ:
    time.sleep(float(os.environ.get("HARNESS_FAKE_IMPORT_S", "0")))
    Path(os.environ["HARNESS_FAKE"], f"imported-{os.getpid()}").touch()


def examine(trees, wanted, allow_weak):
    return []


def prove(trees):
    return Proven()


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
    return Prepared({"t": np.zeros((4, 2), np.float32)}, 2, 0.5)


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
    OPEN.update({job.number: [job, max(job.rungs, default=0)] for job in jobs})
    for job in jobs:
        assert all(epoch > max(job.rungs, default=0) for epoch in rungs), "rungs that the trial has passed"
    with open(Path(os.environ["HARNESS_FAKE"]) / "groups", "a") as file:
        file.write(" ".join(str(job.number) for job in jobs) + "\n")
    return go_on({}, rungs)


def go_on(stops, rungs, keep=False, device="cpu"):
    """Accuracy rises along the epochs towards what :func:`run` will find. A trial that continues another
    goes on where that one stood."""
    records = []
    for number, reason in stops.items():
        job, epoch = OPEN.pop(number)
        seen = diagnostics_of(job, [e for e in rungs if e <= epoch], epoch)
        record = job.record().model_copy(update={"status": "stopped", "reason": reason, "diagnostics": seen})
        write_record(job.folder, record)
        (job.folder / UNTRAINED).unlink(missing_ok=True)
        records.append(record)
    done = max((epoch for _, epoch in OPEN.values()), default=0)
    reached = next((epoch for epoch in rungs if epoch > done), None)
    if OPEN and reached is not None:
        OPEN.update({n: [job, reached] for n, (job, _) in OPEN.items()})
        return Answer(records, reached, {n: accuracy_at(job.recipe, reached) for n, (job, _) in OPEN.items()})
    records += [run(OPEN.pop(number)[0], {}, rungs=rungs) for number in list(OPEN)]
    return Answer(records)


def diagnostics_of(job, rungs, epochs):
    """Of a trial that trained to ``epochs``, what it had trained as another included."""
    own = {epoch: accuracy_at(job.recipe, epoch) for epoch in rungs}
    curve = {str(epoch): found for epoch, found in (own | dict(job.rungs)).items()}
    return {**job.record().diagnostics, "epochs": epochs - max(job.rungs, default=0), "rungs": curve}


def untrained(recipe, folder, device="cpu"):
    width = width_of(recipe)
    path = folder / UNTRAINED
    write_bytes_durably(path, tiny_model(width))
    return Cost(f"w{width}", path.stat().st_size, path.name)


def width_of(recipe):
    options = recipe.student.options
    return options["width"] if "width" in options else sum(options["hidden"])


def accuracy_of(recipe):
    width, bits = width_of(recipe), recipe.quant.options["bits"]
    return 1 - 1 / (2 + width * min(bits, 8) / 8) + 0.01 * recipe.train.lr


def accuracy_at(recipe, epoch):
    return accuracy_of(recipe) * (1 - 0.5 / (1 + epoch))


def run(job, logits, device="cpu", rungs=()):
    box = Path(os.environ["HARNESS_FAKE"])
    with open(box / "started", "a") as file:
        file.write(f"{job.number}\n")
    time.sleep(float(os.environ.get("HARNESS_FAKE_S", "0")))
    if (box / f"hang-{job.number}").exists():
        time.sleep(600)
    switch = box / f"die-{job.number}"
    if (box / f"fail-{job.number}").exists():
        record = job.record().model_copy(update={"reason": str(TrialError("nonfinite: told to"))})
        write_record(job.folder, record)
        return record
    if switch.exists() and "before" in switch.read_text():
        switch.unlink()
        os._exit(9)
    width, path = width_of(job.recipe), job.folder / "model.onnx"
    write_bytes_durably(path, tiny_model(width))
    (job.folder / UNTRAINED).unlink(missing_ok=True)
    file = describe_file(path, "onnx")
    seen = diagnostics_of(job, rungs, job.recipe.train.epochs)
    made = {"status": "ok", "diagnostics": seen, "artifact": file, "structure": f"w{width}"}
    record = (
        job.record()
        .model_copy(update=made)
        .with_measurements(
            Measurement(name="accuracy", unit="1", values=[accuracy_of(job.recipe)], conditions={"n": 100}),
            Measurement(name="size_bytes", unit="B", values=[float(file.size_bytes)]),
        )
    )
    write_record(job.folder, record)
    if switch.exists():
        switch.unlink()
        os._exit(9)
    return record


def score_test(folder):
    with open(Path(os.environ["HARNESS_FAKE"]) / "tested", "a") as file:
        file.write(f"{Path(folder).name}\n")
    return {"accuracy": 0.5, "n": 10.0}
