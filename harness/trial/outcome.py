"""The end of a trial: finished with a file, stopped, or failed. Its record is always written to disk."""

from __future__ import annotations

import csv
import io
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from harness import __version__
from harness.errors import HarnessError, disk_error, reason_of
from harness.export import facts, packed
from harness.export.export import Export, export
from harness.export.template import Templates
from harness.files.access import write_bytes_durably
from harness.files.folders import cache_folder
from harness.machine import host
from harness.measure.audit import audit
from harness.models.build import build_model
from harness.recipe import Recipe
from harness.records import UNTRAINED, Measurement, TrialRecord, write_json_durably, write_record
from harness.train.fit import Trained, finish
from harness.train.student import Run
from harness.trial.score import data_of, file_metrics, parity

FILES = {"onnx": "model.onnx", "packed": "model.hpk"}


@dataclass(frozen=True)
class Opened:
    """A trial in this process with its student. ``rungs``: accuracy by the number of epochs trained."""

    base: TrialRecord
    folder: Path
    student: Run
    rungs: Mapping[int, float]
    seconds: float  # work so far; time shared in a group is split equally
    before: int = 0  # epochs that were trained by the stopped trial that this one continues


@lru_cache(maxsize=1)
def templates() -> Templates:
    """This process's exported graphs, shared with other processes through the cache folder."""
    return Templates(cache_folder() / "graphs")


def ship(trained: Trained, recipe: Recipe, path: Path) -> Export:
    """Export a student to ``path`` as the recipe's ``deploy`` asks, durably.

    Raises:
        TrialError: the exported graph does not compute the same as the student.
    """
    data = data_of(recipe)
    unpruned = build_model(recipe.student, data.input_shape, data.classes, recipe.seed)
    task = facts.of_task(data)
    return export(trained, templates(), path, data.input_shape, data.mean, data.std, unpruned, recipe.deploy, task)


def failure(base: TrialRecord, error: BaseException) -> TrialRecord:
    """The record of a trial that failed with ``error``. The reason has at most MAX_REASON characters. For unexpected
    errors the diagnostics contain the end of the traceback."""
    record = base.model_copy(update={"reason": reason_of(error)})
    if isinstance(error, HarnessError | torch.OutOfMemoryError):
        return record
    trace = "".join(traceback.format_exception(error))[-4000:]
    return record.model_copy(update={"diagnostics": {**base.diagnostics, "traceback": trace}})


def ended(record: TrialRecord, folder: Path, seconds: float, device: str) -> TrialRecord:
    """Complete the record, write it durably and return it."""
    record = record.model_copy(update={"duration_s": seconds, "environment": _environment(device)})
    (folder / UNTRAINED).unlink(missing_ok=True)
    write_record(folder, record)
    return record


def stopped(opened: Opened, reason: str, device: str) -> TrialRecord:
    """The record of a trial that was stopped at a rung. It has a curve but no file."""
    student = opened.student
    _write_beside(opened.folder, student.recipe, student.history)
    record = opened.base.model_copy(
        update={
            "status": "stopped",
            "reason": reason,
            "recipe": student.recipe.to_tree(),
            "diagnostics": {**opened.base.diagnostics, "rungs": _rungs(opened), "epochs": _epochs(opened)},
        }
    )
    return ended(record, opened.folder, opened.seconds, device)


def _epochs(opened: Opened) -> int:
    return opened.student.epoch - opened.before


def _rungs(opened: Opened) -> dict[str, float]:
    return {str(epoch): accuracy for epoch, accuracy in opened.rungs.items()}


def finished(opened: Opened, device: str) -> TrialRecord:
    """The record of a trial that trained to its last epoch, after export, scoring on its runtime and audit."""
    started = time.monotonic()
    record = caught(opened.base, _record, opened)
    return ended(record, opened.folder, opened.seconds + time.monotonic() - started, device)


def _record(opened: Opened) -> TrialRecord:
    recipe, folder = opened.student.recipe, opened.folder
    data, trained = data_of(recipe), finish(opened.student)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILES[recipe.deploy.format]
    exported = ship(trained, recipe, path)
    metrics = file_metrics(path, data, "validation", recipe.deploy.runtime)
    _write_beside(folder, recipe, trained.history)
    conditions = {"split": "validation", "n": len(data.validation[1]), "runtime": recipe.deploy.runtime}
    scores = [Measurement(name=k, unit="1", values=[v], conditions=conditions) for k, v in metrics.items()]
    size = Measurement(name="size_bytes", unit="B", values=[float(exported.artifact.size_bytes)])
    return opened.base.model_copy(
        update={
            "status": "ok",
            "artifact": exported.artifact,
            "structure": exported.structure,
            "waterfall": exported.waterfall,
            "recipe": recipe.to_tree(),
            "diagnostics": {
                **opened.base.diagnostics,
                **trained.diagnostics,
                **({"rungs": _rungs(opened)} if opened.rungs else {}),
                "epochs": _epochs(opened),
                "facts": facts.of_task(data) | facts.of_file(packed.load(path)),
                "parity": parity(trained, path, data, recipe.deploy.runtime),
                "audit": audit(path, recipe.deploy.runtime).as_json(),
                "worker_peak_mib": host.peak_memory_mib(),
            },
        }
    ).with_measurements(*scores, size)


@lru_cache(maxsize=4)
def _environment(device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    return {**host.environment(), "harness": __version__, "torch": str(torch.__version__), "trained_on": name}


def _write_beside(folder: Path, recipe: Recipe, history: Sequence[Mapping[str, float]]) -> None:
    """Write recipe.yaml (JSON is valid YAML) and history.csv, for users and for ``harness train``."""
    write_json_durably(folder / "recipe.yaml", recipe.to_tree())
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(history[0]) if history else ["epoch"])
    writer.writeheader()
    writer.writerows(history)
    write_bytes_durably(folder / "history.csv", table.getvalue().encode())


def caught(base: TrialRecord, work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``work(*arguments)``, or the record of its failure."""
    try:
        return work(*arguments)
    except (Exception, SystemExit) as error:  # the worker must answer whatever the user's model raises
        if disk_error(error) is not None:
            raise  # not the trial's fault: the search ends, and a resumed search repeats the trial
        return failure(base, error)
