"""How a trial ends: finished with a file, stopped, or failed; always with its record on the disk."""

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
    """A trial in this process with its student; ``rungs``: accuracy by the epochs done."""

    base: TrialRecord
    folder: Path
    student: Run
    rungs: Mapping[int, float]
    seconds: float  # of work so far; what is shared in a group counts in equal parts
    before: int = 0  # epochs that the trial had trained as another, which was stopped


@lru_cache(maxsize=1)
def templates() -> Templates:
    """This process's exported graphs, shared with others through the cache folder."""
    return Templates(cache_folder() / "graphs")


def ship(trained: Trained, recipe: Recipe, path: Path) -> Export:
    """Write the file that the recipe's ``deploy`` asks for to ``path``, durably.

    Raises:
        TrialError: the exported graph does not compute what the student does.
    """
    data = data_of(recipe)
    unpruned = build_model(recipe.student, data.input_shape, data.classes, recipe.seed)
    task = facts.of_task(data)
    return export(trained, templates(), path, data.input_shape, data.mean, data.std, unpruned, recipe.deploy, task)


def failure(base: TrialRecord, error: BaseException) -> TrialRecord:
    """The record of a trial that ended in ``error``: the reason of at most MAX_REASON characters, for unexpected
    errors the end of the traceback among the diagnostics."""
    record = base.model_copy(update={"reason": reason_of(error)})
    if isinstance(error, HarnessError | torch.OutOfMemoryError):
        return record
    trace = "".join(traceback.format_exception(error))[-4000:]
    return record.model_copy(update={"diagnostics": {**base.diagnostics, "traceback": trace}})


def ended(record: TrialRecord, folder: Path, seconds: float, device: str) -> TrialRecord:
    """The record, durably written."""
    record = record.model_copy(update={"duration_s": seconds, "environment": _environment(device)})
    (folder / UNTRAINED).unlink(missing_ok=True)
    write_record(folder, record)
    return record


def stopped(opened: Opened, reason: str, device: str) -> TrialRecord:
    """The record of a trial that a rule ended at a rung: its curve, no file."""
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
    return {str(epoch): found for epoch, found in opened.rungs.items()}


def finished(opened: Opened, device: str) -> TrialRecord:
    """The record of a trial that trained to its end: exported, scored on its runtime, audited."""
    started = time.monotonic()
    record = caught(opened.base, _record, opened)
    return ended(record, opened.folder, opened.seconds + time.monotonic() - started, device)


def _record(opened: Opened) -> TrialRecord:
    recipe, folder = opened.student.recipe, opened.folder
    data, trained = data_of(recipe), finish(opened.student)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILES[recipe.deploy.format]
    made = ship(trained, recipe, path)
    metrics = file_metrics(path, data, "validation", recipe.deploy.runtime)
    _write_beside(folder, recipe, trained.history)
    conditions = {"split": "validation", "n": len(data.validation[1]), "runtime": recipe.deploy.runtime}
    scores = [Measurement(name=k, unit="1", values=[v], conditions=conditions) for k, v in metrics.items()]
    size = Measurement(name="size_bytes", unit="B", values=[float(made.artifact.size_bytes)])
    return opened.base.model_copy(
        update={
            "status": "ok",
            "artifact": made.artifact,
            "structure": made.structure,
            "waterfall": made.waterfall,
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
    """recipe.yaml (JSON is YAML) and history.csv, for people and for ``harness train``."""
    write_json_durably(folder / "recipe.yaml", recipe.to_tree())
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(history[0]) if history else ["epoch"])
    writer.writeheader()
    writer.writerows(history)
    write_bytes_durably(folder / "history.csv", table.getvalue().encode())


def caught(base: TrialRecord, work: Callable[..., Any], *given: Any) -> Any:
    """What ``work(*given)`` gives, or the record of its failure."""
    try:
        return work(*given)
    except (Exception, SystemExit) as error:  # the worker must answer, whatever a user's model does
        if disk_error(error) is not None:
            raise  # no fault of the trial: the search ends, and a resumed one tries it again
        return failure(base, error)
