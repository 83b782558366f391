"""Scores of a file: accuracy on its runtime and parity with training. Also the data, cached per process."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from harness.errors import TrialError
from harness.recipe import Recipe, Task, parse_recipe
from harness.records import parse_record
from harness.registries import REGISTRIES
from harness.runtimes import base
from harness.tasks.data import Data, load_data, own_metrics
from harness.train.fit import Trained
from harness.train.predict import normalized, predict

PARITY_SAMPLES = 256  # validation samples on which file and simulation are compared
RUNG_SAMPLES = 1000  # validation samples at a rung, unless the training part is large; see ``rung_part``
RESAMPLES = 200  # bootstrap draws of a metric


@dataclass(frozen=True)
class _Keyed:
    """A task as a cache's key, compared by its text: its options are a dict, which cannot be hashed."""

    text: str
    task: Task = field(compare=False)

    @staticmethod
    def of(recipe: Recipe) -> _Keyed:
        return _Keyed(json.dumps(recipe.task.to_tree()), recipe.task)


@lru_cache(maxsize=2)
def _data(keyed: _Keyed) -> Data:
    return load_data(keyed.task)


def data_of(recipe: Recipe) -> Data:
    """The recipe's data, cached in this process."""
    return _data(_Keyed.of(recipe))


@lru_cache(maxsize=4)
def _normalized(keyed: _Keyed, part: str, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    data = _data(keyed)
    x, y = getattr(data, part)
    return normalized(x, data).to(device), y.to(device)


def normalized_part(recipe: Recipe, part: str, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The part ``train`` or ``validation`` of the recipe's data: x normalized, y; both on the device and cached in this
    process."""
    return _normalized(_Keyed.of(recipe), part, device)


@lru_cache(maxsize=2)
def _at_rungs(keyed: _Keyed, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = _normalized(keyed, "validation", device)
    most = max(RUNG_SAMPLES, len(_data(keyed).train[1]) // 6)
    if len(y) <= most:
        return x, y
    chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:most].to(y.device)
    return x[chosen], y[chosen]


def rung_part(recipe: Recipe, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Validation samples for the accuracy at a rung: x, y.

    At most RUNG_SAMPLES or a sixth of the number of training samples, whichever is larger; the same random subset at
    every rung of every trial. As an epoch also has backward passes, a rung costs a small part of it.
    """
    return _at_rungs(_Keyed.of(recipe), device)


def file_metrics(path: Path, data: Data, part: str, runtime: str = "onnxruntime") -> dict[str, float]:
    """Accuracy and the task's own metrics of the file on ``validation`` or ``test``, computed by the runtime."""
    x, y = getattr(data, part)
    logits, labels = base.load(runtime, path).logits(x.float().numpy()), y.numpy()
    return {"accuracy": float((logits.argmax(1) == labels).mean()), **own_metrics(data, logits, labels)}


def parity(trained: Trained, path: Path, data: Data, runtime: str = "onnxruntime") -> dict[str, float]:
    """The difference between the file and its simulation in torch, on the first ``n`` validation samples.

    ``max_abs`` is the largest difference of logits, ``relative`` its ratio to the largest logit; ``disagreements``
    counts the samples whose predicted class differs.
    """
    x, _ = data.validation
    x = x[:PARITY_SAMPLES]
    torch_logits = predict(trained.module, normalized(x, data), trained.quantized)
    file_logits = base.load(runtime, path).logits(x.float().numpy())
    difference = np.abs(torch_logits - file_logits)
    scale = float(np.abs(torch_logits).max()) or 1.0
    disagreements = (torch_logits.argmax(1) != file_logits.argmax(1)).sum()
    return {
        "max_abs": float(difference.max()),
        "relative": float(difference.max()) / scale,
        "disagreements": float(disagreements),
        "n": float(len(x)),
    }


def score_test(folder: str) -> dict[str, float]:
    """Metrics of a finished trial's file on the test part. Called once per trial, for points of the front."""
    record = parse_record(Path(folder))
    recipe = parse_recipe(record.recipe, REGISTRIES)
    data = data_of(recipe)
    metrics = file_metrics(record.file(Path(folder)), data, "test", recipe.deploy.runtime)
    return {**metrics, "n": float(len(data.test[1]))}


def metric_spread(folder: str) -> dict[str, float]:
    """Standard deviation of each of the task's own metrics of a trial's file on the validation part.

    It is taken over ``RESAMPLES`` draws of the samples with replacement (bootstrap, Efron 1979). Draws in which a
    metric is undefined are left out.
    """
    record = parse_record(Path(folder))
    recipe = parse_recipe(record.recipe, REGISTRIES)
    data, drawn = data_of(recipe), list[dict[str, float]]()
    if data.metrics is None:
        return {}
    x, y = data.validation
    logits, labels = (
        base.load(recipe.deploy.runtime, record.file(Path(folder))).logits(x.float().numpy()),
        y.numpy(),
    )
    rng = np.random.default_rng(0)
    for _ in range(RESAMPLES):
        chosen = rng.integers(0, len(labels), len(labels))
        with contextlib.suppress(TrialError):
            drawn.append(own_metrics(data, logits[chosen], labels[chosen]))
    return {name: float(np.std([d[name] for d in drawn], ddof=1)) for name in (drawn[0] if len(drawn) > 1 else {})}
