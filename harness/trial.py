"""One trial: recipe in, file and record out. Nothing raises past here: failure is data.

Runs in a worker process (it imports torch). What trials share - the data, the exported graphs -
is kept per process; the teacher's logits come from the study, computed once.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
import traceback
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import __version__
from harness.deploy import machine, runtimes
from harness.deploy.audit import audit
from harness.deploy.export import Templates, export
from harness.errors import HarnessError
from harness.models.build import build_model
from harness.recipe import Recipe, Selected, parse_recipe
from harness.records import (
    Measurement,
    TrialRecord,
    write_bytes_durably,
    write_json_durably,
    write_record,
)
from harness.registries import REGISTRIES
from harness.tasks.data import Data, load_data
from harness.tasks.folders import cache_folder
from harness.train.fit import Examples, Trained, fit
from harness.train.memory import keep_memory
from harness.train.predict import normalised, predict
from harness.train.teacher import teacher_key, teacher_module

PARITY_SAMPLES = 256
FILES = {"onnx": "model.onnx", "packed": "model.hpk"}


@lru_cache(maxsize=2)
def _data(task_json: str) -> Data:
    return load_data(Selected(**json.loads(task_json)))


def data_of(recipe: Recipe) -> Data:
    """The recipe's data, loaded once per process."""
    return _data(recipe.task.model_dump_json())


@lru_cache(maxsize=1)
def _templates() -> Templates:
    return Templates(cache_folder() / "graphs")


@lru_cache(maxsize=2)
def normalised_train(task_json: str, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    data = _data(task_json)
    return normalised(data.train[0], data).to(device), data.train[1].to(device)


@lru_cache(maxsize=1)
def _settle() -> None:
    """What the process that trains needs once."""
    keep_memory()
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))


def prepare(trees: list[Mapping[str, Any]], folder: str, device: str = "cpu") -> dict[str, Any]:
    """What a study needs before its first trial: data checked, student built once, teachers ready.

    Args:
        trees: recipes that between them name every teacher of the space.
        folder: the study's folder; written only when everything succeeded.
    Returns:
        ``logits`` (teacher key -> (N, C) float32 over the training part), ``chance`` (accuracy of
        the most frequent class), ``classes``.
    Raises:
        SpaceError: the data, the teacher or the student cannot be had.
    """
    _settle()
    recipes = [parse_recipe(tree, REGISTRIES) for tree in trees]
    data = data_of(recipes[0])
    build_model(recipes[0].student, data.input_shape, data.classes, recipes[0].seed)
    logits: dict[str, np.ndarray] = {}
    modules = {}
    for recipe in recipes:
        if recipe.teacher is None:
            continue
        key = teacher_key(recipe.teacher, data.fingerprint())
        if key not in logits:
            modules[key] = (recipe, teacher_module(recipe, data, device))
            logits[key] = predict(modules[key][1].to(device), normalised(data.train[0], data))
    for index, (recipe, module) in enumerate(modules.values()):
        _write_teacher(Path(folder), recipe, module.cpu(), data, first=index == 0)
    labels = data.validation[1].numpy()
    return {"logits": logits, "classes": data.classes, "chance": float(np.bincount(labels).max() / len(labels))}


def _write_teacher(folder: Path, recipe: Recipe, module: torch.nn.Module, data: Data, first: bool) -> None:
    if not first or recipe.teacher is None:
        return
    path = folder / "teacher" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = Trained(module.eval(), None, False, [], {})
    made = export(plain, _templates(), path, data.input_shape, data.mean, data.std)
    accuracy = file_metrics(path, data, "validation", recipe.deploy.runtime)["accuracy"]
    write_json_durably(
        folder / "teacher.json",
        {
            "model": recipe.teacher.model.name,
            "options": recipe.teacher.model.options,
            "accuracy": accuracy,
            "size_bytes": made.artifact.size_bytes,
            "path": "teacher/model.onnx",
            "structure": made.structure,
        },
    )


def run(
    tree: Mapping[str, Any],
    number: int,
    params: Mapping[str, Any],
    baseline: str,
    folder: str,
    teacher_logits: Mapping[str, np.ndarray] | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train, export and score one trial in ``folder``; the record is on the disk before it returns.

    Latency is not measured here: the driver times the file when nothing else runs.
    """
    _settle()
    started = time.monotonic()
    base = TrialRecord(
        number=number,
        status="failed",
        baseline=baseline,
        recipe=dict(tree),
        params=dict(params),
        seed=int(tree.get("seed", 0)),
    )
    try:
        record = _run(parse_recipe(tree, REGISTRIES), base, Path(folder), teacher_logits or {}, device)
    except HarnessError as error:
        record = base.model_copy(update={"reason": str(error)})
    except torch.OutOfMemoryError as error:
        record = base.model_copy(update={"reason": f"oom: {error}"})
    except Exception as error:  # the worker must answer, whatever a user's model does
        reason = f"{type(error).__name__}: {error}"
        record = base.model_copy(
            update={"reason": reason, "diagnostics": {"traceback": traceback.format_exc()[-4000:]}}
        )
    record = record.model_copy(update={"duration_s": time.monotonic() - started, "environment": _environment(device)})
    write_record(Path(folder), record)
    return record.model_dump(mode="json")


@lru_cache(maxsize=4)
def _environment(device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    return {**machine.environment(), "harness": __version__, "torch": torch.__version__, "trained_on": name}


def teacher_logits(recipe: Recipe, data: Data, given: Mapping[str, np.ndarray], device: str) -> torch.Tensor | None:
    if recipe.teacher is None or not REGISTRIES.distills[recipe.distill.name].needs:
        return None
    key = teacher_key(recipe.teacher, data.fingerprint())
    logits = (
        given[key]
        if key in given
        else predict(teacher_module(recipe, data, device).to(device), normalised(data.train[0], data))
    )
    return torch.from_numpy(np.array(logits)).to(device)


def _run(recipe: Recipe, base: TrialRecord, folder: Path, given: Mapping[str, np.ndarray], device: str) -> TrialRecord:
    data = data_of(recipe)
    module = build_model(recipe.student, data.input_shape, data.classes, recipe.seed)
    unpruned = build_model(recipe.student, data.input_shape, data.classes, recipe.seed)
    x, y = normalised_train(recipe.task.model_dump_json(), device)
    trained = fit(recipe, module.to(device), Examples(x, y, teacher_logits(recipe, data, given, device)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILES[recipe.deploy.format]
    made = export(trained, _templates(), path, data.input_shape, data.mean, data.std, unpruned, recipe.deploy)
    metrics = file_metrics(path, data, "validation", recipe.deploy.runtime)
    _write_beside(folder, recipe, trained)
    conditions = {"split": "validation", "n": len(data.validation[1]), "runtime": recipe.deploy.runtime}
    scores = [Measurement(name=k, unit="1", values=[v], conditions=conditions) for k, v in metrics.items()]
    size = Measurement(name="size_bytes", unit="B", values=[float(made.artifact.size_bytes)])
    return base.model_copy(
        update={
            "status": "ok",
            "artifact": made.artifact,
            "structure": made.structure,
            "waterfall": made.waterfall,
            "recipe": recipe.to_tree(),
            "diagnostics": {
                **trained.diagnostics,
                "parity": parity(trained, path, data, recipe.deploy.runtime),
                "audit": audit(path, recipe.deploy.runtime).as_json(),
                "worker_peak_mib": machine.peak_memory_mib(),
            },
        }
    ).with_measurements(*scores, size)


def file_metrics(path: Path, data: Data, part: str, runtime: str = "onnxruntime") -> dict[str, float]:
    """Accuracy (and the task's own metrics) of the file on ``validation`` or ``test``, computed by
    the runtime."""
    x, y = getattr(data, part)
    logits, labels = runtimes.load(runtime, path).logits(x.float().numpy()), y.numpy()
    own = {} if data.metrics is None else {k: float(v) for k, v in data.metrics(logits, labels).items()}
    return {"accuracy": float((logits.argmax(1) == labels).mean()), **own}


def parity(trained: Trained, path: Path, data: Data, runtime: str = "onnxruntime") -> dict[str, float]:
    """How far the file is from torch's simulation of it, on the first validation samples.

    ``max_abs`` and ``relative`` (to the largest logit) compare logits; ``disagreements`` counts
    samples whose predicted class differs, of ``n``.
    """
    x, _ = data.validation
    x = x[:PARITY_SAMPLES]
    torch_logits = predict(trained.module, normalised(x, data), trained.quantised)
    file_logits = runtimes.load(runtime, path).logits(x.float().numpy())
    difference = np.abs(torch_logits - file_logits)
    scale = float(np.abs(torch_logits).max()) or 1.0
    disagreements = (torch_logits.argmax(1) != file_logits.argmax(1)).sum()
    return {
        "max_abs": float(difference.max()),
        "relative": float(difference.max()) / scale,
        "disagreements": float(disagreements),
        "n": float(len(x)),
    }


def _write_beside(folder: Path, recipe: Recipe, trained: Trained) -> None:
    """recipe.yaml (JSON is YAML) and history.csv, for people and for ``harness train``."""
    write_json_durably(folder / "recipe.yaml", recipe.to_tree())
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(trained.history[0]))
    writer.writeheader()
    writer.writerows(trained.history)
    write_bytes_durably(folder / "history.csv", table.getvalue().encode())


def score_test(folder: str) -> dict[str, float]:
    """Accuracy of a finished trial's file on the test part: called once, for points on the front."""
    record = TrialRecord.model_validate_json((Path(folder) / "record.json").read_bytes())
    recipe = parse_recipe(record.recipe, REGISTRIES)
    data = data_of(recipe)
    metrics = file_metrics(record.file(Path(folder)), data, "test", recipe.deploy.runtime)
    return {**metrics, "n": float(len(data.test[1]))}
