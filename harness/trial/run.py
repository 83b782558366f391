"""Run trials in a worker process. An error of a trial does not raise; it becomes a record with status ``failed``.

``run`` does one trial in one call. ``start`` and ``go_on`` train a group of trials of equal structure side by side,
from rung to rung: at every rung they return the accuracies and keep the students, and the next call says which trials
stop. The teachers' logits are computed once per study and passed in.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.errors import TrialError, disk_error, reason_of
from harness.export import facts
from harness.export.export import export
from harness.files.checksums import write_checked_json
from harness.models.build import build_model
from harness.recipe import Recipe, Selected, Teacher, parse_recipe
from harness.records import UNTRAINED, TrialRecord
from harness.registries import REGISTRIES
from harness.tasks.data import Data, own_metrics
from harness.train.bind import by_layer
from harness.train.evaluate import accuracy
from harness.train.fit import Trained, advance, finish
from harness.train.forward import Tensors
from harness.train.lanes import Examples, lane, size_of, stack
from harness.train.memory import keep_memory
from harness.train.predict import normalized, predict
from harness.train.quantization_points import weighted_layers
from harness.train.schedule import begin
from harness.train.student import Run
from harness.train.teacher import parameters_of, quantities_of, teacher_key, teacher_module
from harness.trial.announce import announce
from harness.trial.job import Answer, Cost, Prepared, TrialJob
from harness.trial.outcome import Opened, caught, ended, failure, finished, ship, stopped, templates
from harness.trial.pace import pace
from harness.trial.proof import cannot, examine, measured, prove
from harness.trial.score import data_of, file_metrics, metric_spread, normalized_part, rung_part, score_test

__all__ = ["examine", "fingerprint", "metric_spread", "pace", "prepare", "prove"]
__all__ += ["go_on", "run", "score_test", "start", "untrained"]


_OPENED: dict[int, Opened] = {}
_PAUSED: dict[int, Opened] = {}  # trials stopped in this process, which may be resumed
PAUSED_BYTES = 128 * 2**20  # memory for paused trials' tensors; the oldest are dropped and would train from the start


@lru_cache(maxsize=1)
def _settle() -> None:
    """Set allocator and number of threads, once per process."""
    keep_memory()
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))


def fingerprint(tree: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the parts of the data of the recipe ``tree`` (:meth:`harness.tasks.data.Data.parts`)."""
    return data_of(parse_recipe(tree, REGISTRIES)).parts()


def prepare(trees: Sequence[Mapping[str, Any]], folder: str, device: str = "cpu") -> Prepared:
    """Prepare a study before its first trial: load the data, build a student, train or load the teachers.

    Args:
        trees: recipes that together name every teacher of the space.
        folder: the study's folder; written only after everything else has succeeded.
    Raises:
        SpaceError: the data cannot be loaded, or a teacher or the student cannot be built.
    """
    _settle()
    recipes = [parse_recipe(tree, REGISTRIES) for tree in trees]
    data = data_of(recipes[0])
    student = build_model(recipes[0].student, data.input_shape, data.classes, recipes[0].seed)
    by_layer("quant.bits", recipes[0].quant.options["bits"], weighted_layers(student))
    logits: dict[str, np.ndarray] = {}
    modules, teachers = {}, []
    for recipe in recipes:
        if recipe.teacher is None:
            continue
        key = teacher_key(recipe.teacher, data.fingerprint())
        if key not in logits:
            modules[key] = (recipe, teacher_module(recipe, data, device, _epochs_of(recipe.teacher)))
            logits[key] = predict(modules[key][1].to(device), normalized(data.train[0], data))
            if recipe.teacher.model.checkpoint is None:
                skill = measured(modules[key][1], data)
                teachers.append({"model": recipe.teacher.model.name, "accuracy": skill.accuracy, "weak": skill.weak})
    for index, (recipe, module) in enumerate(modules.values()):
        _write_teacher(Path(folder), recipe, module.cpu(), data, first=index == 0)
    labels = data.validation[1].numpy()
    chance = float(np.bincount(labels).max() / len(labels))
    return Prepared(logits, data.classes, chance, _metrics_at_chance(data, labels), teachers)


def _epochs_of(teacher: Teacher) -> Callable[[int], None]:
    """A function that announces a teacher's epochs."""
    return lambda epoch: announce(f"teacher {teacher.model.name}: epoch {epoch} of {teacher.train.epochs}")


def _metrics_at_chance(data: Data, labels: np.ndarray) -> dict[str, float]:
    """The task's metrics of always predicting the most frequent class; empty if one of them is undefined there."""
    logits = np.zeros((len(labels), data.classes), np.float32)
    logits[:, np.bincount(labels).argmax()] = 1
    try:
        return own_metrics(data, logits, labels)
    except TrialError:  # such as precision without any positive prediction
        return {}


def _write_teacher(folder: Path, recipe: Recipe, module: torch.nn.Module, data: Data, first: bool) -> None:
    if not first or recipe.teacher is None:
        return
    path = folder / "teacher" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = Trained(module.eval(), None, False, [], {})
    try:
        exported = export(plain, templates(), path, data.input_shape, data.mean, data.std, task=facts.of_task(data))
    except Exception as error:  # torch's exporter raises errors of many types
        raise cannot("teacher.model", recipe.teacher.model.name, "be exported to ONNX", error) from error
    metrics = file_metrics(path, data, "validation", recipe.deploy.runtime)
    write_checked_json(
        folder / "teacher.json",
        {
            "model": recipe.teacher.model.name,
            "options": recipe.teacher.model.options,
            **metrics,
            "size_bytes": exported.artifact.size_bytes,
            "path": "teacher/model.onnx",
            "structure": exported.structure,
        },
    )


def run(job: TrialJob, teacher_logits: Mapping[str, np.ndarray] | None = None, device: str = "cpu") -> TrialRecord:
    """Train, export and score one trial. Its record is written to disk before the function returns.

    Latency is not measured here: the driver times the file when nothing else runs.
    """
    return start([job], [], teacher_logits, device).records[0]


def start(
    jobs: Sequence[TrialJob],
    rungs: Sequence[int],
    teacher_logits: Mapping[str, np.ndarray] | None = None,
    device: str = "cpu",
) -> Answer:
    """Open a group of trials of equal structure and train them to the first of ``rungs`` (epochs).

    A job that ``continues`` a stopped trial resumes its student if this process still has it. Otherwise the same
    student trains from the start, for more epochs. If the answer is held, :func:`go_on` must be called next.
    """
    _settle()
    _OPENED.clear()  # left by an earlier group
    records = []
    for job in jobs:
        started = time.monotonic()
        base, folder = job.record(), job.folder
        paused = None if job.continues is None else _PAUSED.pop(job.continues, None)
        if paused is not None:
            student = caught(base, _thawed, paused.student, teacher_logits or {}, device)
        else:
            student = caught(base, _opened, job.recipe, teacher_logits or {}, device)
        if isinstance(student, TrialRecord):
            records.append(ended(student, folder, time.monotonic() - started, device))
        else:
            seconds = time.monotonic() - started
            _OPENED[base.number] = Opened(base, folder, student, job.rungs, seconds, student.epoch)
    return _go(rungs, records, device)


def go_on(stops: Mapping[int, str], rungs: Sequence[int], keep: bool = False, device: str = "cpu") -> Answer:
    """Train the waiting trials to the next of ``rungs``.

    Args:
        stops: trials that end here without a file, number -> reason.
        keep: whether their students are kept, because the trials may be resumed.
    Returns:
        As :func:`start`.
    """
    records = []
    for number, reason in stops.items():
        opened = _OPENED.pop(number)
        records.append(stopped(opened, reason, device))
        if keep:
            _pause(opened)
    return _go(rungs, records, device)


def _pause(opened: Opened) -> None:
    """Keep a stopped student.

    It is kept without its examples, because this process may train with another teacher in the meantime. Its tensors
    are copied, because those of a lane are views of tensors that all lanes share.
    """
    run = opened.student
    bare = Examples(run.examples.x.new_empty(0), run.examples.y.new_empty(0))
    _PAUSED[opened.base.number] = replace(
        opened, student=replace(run, state=lane(stack([run.state]), 0), examples=bare)
    )
    while sum(_bytes(o.student) for o in _PAUSED.values()) > PAUSED_BYTES:
        del _PAUSED[next(iter(_PAUSED))]


def _bytes(run: Run) -> int:
    return size_of((run.state, run.hparams, tuple(run.module.parameters())))


def _thawed(run: Run, teacher_logits: Mapping[str, np.ndarray], device: str) -> Run:
    quantities = quantities_of(run.recipe, data_of(run.recipe), teacher_logits, device)
    return replace(run, examples=_examples(run.recipe, quantities, device))


def _go(rungs: Sequence[int], records: list[TrialRecord], device: str) -> Answer:
    epoch_reached = max((o.student.epoch for o in _OPENED.values()), default=0)
    index = next((i for i, epoch in enumerate(rungs) if epoch > epoch_reached), None)
    epochs = max((o.student.recipe.train.epochs for o in _OPENED.values()), default=0)
    records += _train(rungs[index] if index is not None else epochs, device)
    if index is None or not _OPENED:
        records += [finished(_OPENED.pop(n), device) for n in list(_OPENED)]
        return Answer(records)
    for number, opened in _OPENED.items():
        started = time.monotonic()
        x, y = rung_part(opened.student.recipe, device)
        at = {**opened.rungs, opened.student.epoch: accuracy(opened.student, x, y)}
        _OPENED[number] = replace(opened, rungs=at, seconds=opened.seconds + time.monotonic() - started)
    now = {n: o.rungs[o.student.epoch] for n, o in _OPENED.items()}
    return Answer(records, rungs[index], now)


def _train(until: int, device: str) -> list[TrialRecord]:
    """Train every open student to epoch ``until``. Returns the records of those that failed."""
    started, numbers = time.monotonic(), list(_OPENED)
    try:
        runs = advance([_OPENED[n].student for n in numbers], until)
    except (Exception, SystemExit) as error:  # the worker must answer whatever the user's model raises
        runs = [error] * len(numbers)
    seconds = (time.monotonic() - started) / max(len(numbers), 1)
    failed = []
    for number, student in zip(numbers, runs, strict=True):
        opened = replace(_OPENED[number], seconds=_OPENED[number].seconds + seconds)
        if isinstance(student, Run):
            _OPENED[number] = replace(opened, student=student)
        else:
            del _OPENED[number]
            failed.append(ended(failure(opened.base, student), opened.folder, opened.seconds, device))
    return failed


def _opened(recipe: Recipe, teacher_logits: Mapping[str, np.ndarray], device: str) -> Run:
    data = data_of(recipe)
    return _begin(
        recipe, quantities_of(recipe, data, teacher_logits, device), parameters_of(recipe, data, device), device
    )


def _begin(recipe: Recipe, quantities: Tensors, parameters: Tensors, device: str) -> Run:
    data = data_of(recipe)
    module = build_model(recipe.student, data.input_shape, data.classes, recipe.seed)
    return begin(recipe, module.to(device), _examples(recipe, quantities, device), parameters)


def _examples(recipe: Recipe, quantities: Tensors, device: str) -> Examples:
    return Examples(*normalized_part(recipe, "train", device), quantities)


def untrained(recipe: Recipe, folder: Path, device: str = "cpu") -> Cost:
    """The costs of a recipe, from its student in its final form, exported without any training.

    Raises:
        TrialError: the student cannot be built or exported; the trial itself will fail with the same error.
    """
    _settle()
    alone = replace(recipe, distill=Selected(name="none"))  # a teacher does not change the structure
    try:
        exported = ship(finish(_begin(alone, {}, {}, device)), recipe, folder / UNTRAINED)
    except (Exception, SystemExit) as error:
        if disk_error(error) is not None:  # not the recipe's fault
            raise
        raise TrialError(reason_of(error)) from error
    return Cost(exported.structure, exported.artifact.size_bytes, UNTRAINED)
