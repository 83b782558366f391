"""A task's data: three disjoint parts in raw units, and their normalization.

Training, validation and test are disjoint samples. A seeded, stratified split separates validation from
the training samples; mean and standard deviation are computed from the remaining training samples.
Nothing is selected on test. The exported file takes raw units and normalizes its input itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from harness.errors import HarnessError, SpaceError, TrialError
from harness.methods import load_own
from harness.models.seeding import seeded
from harness.normalize import Normalization, read_normalize
from harness.recipe import Selected, Task
from harness.tasks import TASKS
from harness.tasks.checks import Samples, checked, metric_values, numbered
from harness.tasks.split import rows_of, split, stratified

Part = tuple[Tensor, Tensor]
Metrics = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]

VALIDATION = 0.15  # default share of the training samples; more measures more precisely and trains on less
MOST_LABELS = 20  # up to this number of classes, `parts` lists the count of each
_CHUNK = 1024  # samples converted to float64 at a time; bounds the memory


@dataclass(frozen=True, eq=False)
class Data:
    """Three disjoint parts, each x (N, *input_shape) uint8 or float32 in raw units and y (N,) int64.

    mean, std    in raw units, of the training part only: one number per channel for images (C, H, W),
                 one per feature for float (F,), a single one for uint8 (F,)
    metrics      the task's own, besides accuracy: logits (N, C), labels (N,) -> name -> value
    class_names  of the outputs, in order; empty if the classes have only numbers
    """

    train: Part
    validation: Part
    test: Part
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    metrics: Metrics | None = None
    class_names: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W) or (F,)."""
        return tuple(self.train[0].shape[1:])

    def fingerprint(self) -> str:
        """A hash of the content (samples, their parts and order, normalization), the same in every process."""
        return self._digest

    def parts(self) -> dict[str, str]:
        """A description of the data, name -> text; where the content of two data sets differs, so do the texts."""
        descriptions = {"classes": f"{self.classes} {' '.join(self.class_names)}".strip()}
        descriptions["normalization"] = _short(hashlib.sha256(repr((self.mean, self.std)).encode()))
        for name in ("train", "validation", "test"):
            x, y = getattr(self, name)
            labels = torch.bincount(y, minlength=self.classes).tolist()
            counts = f"{labels} " if len(labels) <= MOST_LABELS else ""
            descriptions[f"{name} x"] = f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} {_hash(x)}"
            descriptions[f"{name} labels"] = f"{counts}{_hash(y)}"
        return descriptions

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(repr((self.classes, self.mean, self.std)).encode())
        for part in (self.train, self.validation, self.test):
            for values in part:
                digest.update(f"{tuple(values.shape)} {values.dtype}".encode())
                digest.update(values.contiguous().numpy().data)
        return digest.hexdigest()


def _hash(values: Tensor) -> str:
    return _short(hashlib.sha256(values.contiguous().numpy().data))


def _short(digest: Any) -> str:
    return f"sha256 {digest.hexdigest()[:16]}"


def assemble(
    train: Samples,
    test: Samples,
    *,
    validation: float | Samples = VALIDATION,
    split_seed: int = 0,
    train_limit: int = 0,
    rows: str = "",
    metrics: Metrics | None = None,
    class_names: Sequence[str] = (),
) -> Data:
    """Make :class:`Data` from checked samples.

    Args:
        validation: the share of every class of ``train`` that is used for validation, or separate samples.
        train_limit: the number of remaining training samples to use, stratified (0: all).
        rows: a file with the rows of ``train`` for training and for validation (:func:`rows_of`); empty
            for the seeded split.
        class_names: one per class, in the order of the class numbers, or none.
    Raises:
        SpaceError: a class has no training sample, ``train_limit`` is below the number of classes, or
            ``class_names`` has another length.
    """
    x, y = train
    if isinstance(validation, tuple):
        held, kept = validation, np.arange(len(y))
    else:
        kept, carved = rows_of(rows, len(y)) if rows else split(y, validation, split_seed)
        held = (x[carved], y[carved])
    classes = len(np.unique(y))
    if len(np.unique(y[kept])) < classes:
        raise SpaceError("task.split", f"train must have samples of each of the {classes} classes", rows)
    if 0 < train_limit < classes:
        raise SpaceError("task.train_limit", f"must be 0 (all) or at least {classes}, one sample a class", train_limit)
    if 0 < train_limit < len(kept):
        kept = kept[stratified(y[kept], train_limit, split_seed)]
    x, y = x[kept], y[kept]
    if class_names and len(class_names) != classes:
        raise SpaceError("task.name", f"class_names must be {classes}, one a class, or none", list(class_names))
    for part, labels in (("train", y), ("validation", held[1]), ("test", test[1])):
        if not len(labels):
            raise SpaceError("task.name", f"{part} would have no samples: the data are too few to be split")
    mean, std = normalization(x)
    names = tuple(str(name) for name in class_names)
    return Data(_part(x, y), _part(*held), _part(*test), mean, std, classes, metrics, names)


def _part(x: np.ndarray, y: np.ndarray) -> Part:
    return torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y.astype(np.int64))


def normalization(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of x (N, *input_shape), computed in float64 and rounded to float32.

    One number per channel of images, and per feature of float vectors, whose units may differ; a single number for
    vectors of bytes, which are pixels. A constant channel gets deviation 1.
    """
    single = x.ndim == 2 and x.dtype == np.uint8
    rows = x.reshape(len(x), 1, -1) if single else x.reshape(len(x), x.shape[1], -1)
    n = rows.shape[0] * rows.shape[2]
    mean, square = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for i in range(0, len(rows), _CHUNK):
        mean += rows[i : i + _CHUNK].sum(axis=(0, 2), dtype=np.float64) / n
    for i in range(0, len(rows), _CHUNK):
        square += ((rows[i : i + _CHUNK] - mean[:, None]) ** 2).sum(axis=(0, 2)) / n
    std = np.where(square > 0, np.sqrt(square), 1.0)
    return _rounded(mean), _rounded(std)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values.astype(np.float32))


def load_data(selected: Selected) -> Data:
    """The data of a recipe's ``task`` section: a registered task or the user's function.

    The user's ``package.module:function`` is called with the section's other keys and returns
    :class:`Data`, or a mapping of arrays ``x_train y_train x_test y_test``, optionally with
    ``x_validation y_validation`` (else 15 % of the training samples), ``metrics``, ``class_names`` and
    ``normalize`` (as ``task.normalize``, which overrides it unless it is ``auto``).

    Raises:
        SpaceError: the data are missing or unusable; names ``task.name`` for a user's function.
    """
    data = _loaded(selected)
    user_normalization = selected.normalize if isinstance(selected, Task) else "auto"
    return normalized_by(data, user_normalization, "task.normalize")


def normalized_by(data: Data, user_normalization: Normalization, path: str) -> Data:
    """``data`` with the user's normalization.

    Raises:
        SpaceError: at ``path``; the normalization has neither one number nor one per channel.
    """
    if user_normalization == "auto":
        return data
    mean, std = ((0.0,), (1.0,)) if user_normalization == "none" else (user_normalization.mean, user_normalization.std)
    channels = data.input_shape[0]
    if len(mean) not in (1, channels):
        rule = f"must have one number, or one for each of the {channels} channels of a sample {data.input_shape}"
        raise SpaceError(path, rule, len(mean))
    return replace(data, mean=mean, std=std)


def _loaded(selected: Selected) -> Data:
    if selected.name in TASKS:
        return TASKS[selected.name].load()(**selected.options)
    function = load_own(selected.name, "task.name")
    try:
        with seeded(0):  # so that all processes of a study get the same samples
            result = function(**selected.options)
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        raise SpaceError("task.name", f"{selected.name!r} raised {type(error).__name__}: {error}") from error
    data = result if isinstance(result, Data) else _from_mapping(selected.name, result)
    metric_names(data, selected.name)
    return data


def own_metrics(data: Data, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The task's own metrics of logits (N, C): name -> value; empty if the task has none.

    Raises:
        TrialError: the task's function raised, or did not return finite numbers.
    """
    if data.metrics is None:
        return {}
    try:
        metrics = data.metrics(logits, labels)
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        raise TrialError(f"metrics raised {type(error).__name__}: {error}") from error
    return metric_values(metrics)


def metric_names(data: Data, name: str) -> list[str]:
    """Names of the task's own metrics, from a call with random predictions for validation and for test.

    Raises:
        SpaceError: the metrics of the task ``name`` cannot be computed, or are not finite.
    """
    metrics: dict[str, float] = {}
    for part in ("validation", "test"):
        labels = getattr(data, part)[1].numpy()
        logits = np.random.default_rng(0).normal(size=(len(labels), data.classes)).astype(np.float32)
        try:
            metrics = own_metrics(data, logits, labels)
        except TrialError as error:
            raise SpaceError("task.name", f"{name!r}, tried on random predictions for {part}: {error}") from error
    return list(metrics)


_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("x_validation", "y_validation", "metrics", "normalize", "class_names")


def _from_mapping(name: str, mapping: Any) -> Data:
    if not isinstance(mapping, Mapping):
        raise SpaceError(
            "task.name",
            f"{name!r} must return harness.tasks.data.Data or a mapping with {', '.join(_ARRAYS)}",
            type(mapping).__name__,
        )
    if missing := [key for key in _ARRAYS if key not in mapping]:
        raise SpaceError(
            "task.name",
            f"what {name!r} returns lacks {', '.join(missing)}",
            remedy=f"It has: {', '.join(map(str, mapping))}.",
        )
    if unknown := [str(key) for key in mapping if key not in _ARRAYS + _OPTIONAL]:
        raise SpaceError(
            "task.name",
            f"what {name!r} returns has the unknown key {unknown[0]!r}",
            remedy=f"Known: {', '.join(_ARRAYS + _OPTIONAL)}.",
        )
    if ("x_validation" in mapping) != ("y_validation" in mapping):
        raise SpaceError("task.name", f"{name!r} must return x_validation and y_validation together, or neither")
    metrics: Any = mapping.get("metrics")
    if metrics is not None and not callable(metrics):
        raise SpaceError(
            "task.name", f"metrics of {name!r} must be a function (logits, labels) -> name -> value", metrics
        )
    parts = ["train", "test", *(["validation"] if "x_validation" in mapping else [])]
    labelled = {
        part: checked("task.name", f"{part} of {name}", mapping[f"x_{part}"], mapping[f"y_{part}"]) for part in parts
    }
    samples, names = numbered("task.name", labelled)
    where = f"task.name: normalize of {name!r}"
    user_normalization = read_normalize(where, mapping.get("normalize", "auto"))
    data = assemble(
        samples["train"],
        samples["test"],
        validation=samples.get("validation", VALIDATION),
        metrics=cast("Metrics | None", metrics),
        class_names=mapping.get("class_names", ()) or names,
    )
    return normalized_by(data, user_normalization, where)
