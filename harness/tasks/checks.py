"""Checks of a user's arrays, with one message for each possible mistake."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.errors import SpaceError, TrialError
from harness.records import metric_name_mistake

Labelled = tuple[np.ndarray, np.ndarray]  # x (N, C, H, W) or (N, F), uint8 or float32; y (N,) int64 or text
Samples = tuple[np.ndarray, np.ndarray]  # the same, with y the class numbers 0..C-1, int64

_CLASSES = "Labels are classes: integers or texts. For whole numbers stored as floats: y.astype('int64')."
_MOST_CLASSES = 0.5  # of the samples of train; with more labels, y is rather a quantity than a class
SHAPES = "(samples, features), (samples, height, width) or (samples, channels, height, width)"


def checked(path: str, where: str, x: Any, y: Any) -> Labelled:
    """x and y converted to :data:`Labelled`.

    x  uint8 stays, floats become float32; images without a channel axis get one
    y  integers, booleans or texts, (N,)
    Raises:
        SpaceError: at ``path``; the text names ``where``.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim not in (2, 3, 4):
        raise SpaceError(path, f"{where}: x must be {SHAPES}", x.shape)
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise SpaceError(path, f"{where}: x must be uint8 or float", str(x.dtype), "Convert it: x.astype('float32').")
    if 0 in x.shape:
        raise SpaceError(path, f"{where}: there must be at least one sample, none of them empty", x.shape)
    if y.shape != (len(x),):
        raise SpaceError(
            path, f"{where}: y must have one label for each of the {len(x)} samples in x, shape ({len(x)},)", y.shape
        )
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y):
        y = y.astype(str)
    if y.dtype.kind == "u" and y.max() > np.iinfo(np.int64).max:
        raise SpaceError(path, f"{where}: y must be below 2**63", int(y.max()), "Convert the labels to texts.")
    if y.dtype.kind not in "iubU":
        raise SpaceError(path, f"{where}: y must hold integers or texts", str(y.dtype), _CLASSES)
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            x = x.astype(np.float32, copy=False)
        if bad := int((~np.isfinite(x)).sum()):
            raise SpaceError(path, f"{where}: x must be finite in float32, {bad} of {x.size} values are not")
    return (x[:, None] if x.ndim == 3 else x), y if y.dtype.kind == "U" else y.astype(np.int64, copy=False)


def numbered(path: str, parts: Mapping[str, Labelled]) -> tuple[dict[str, Samples], tuple[str, ...]]:
    """The parts with class numbers 0..C-1 as labels, and the names of the classes in this order.

    The labels of ``train`` are sorted and numbered. If they are 0..C-1 already, the classes have no names.

    Raises:
        SpaceError: at ``path``; the parts differ in sample shape or dtype, ``train`` has fewer than two classes or so
            many that y looks like a quantity, or another part has a class that ``train`` lacks.
    """
    train_x, train_y = parts["train"]
    present = np.unique(train_y)
    if len(present) < 2:
        raise SpaceError(path, "there must be at least two classes in y of train", present.tolist())
    if len(present) > max(2, _MOST_CLASSES * len(train_y)):
        rule = (
            f"y of train has {len(present)} different labels among {len(train_y)} samples; regression is not supported"
        )
        raise SpaceError(path, rule, present[:20].tolist(), "Group the values into classes.")
    for name, (x, y) in parts.items():
        if x.shape[1:] != train_x.shape[1:] or x.dtype != train_x.dtype:
            rule = f"a sample of {name} must be {train_x.dtype} {train_x.shape[1:]} as in train"
            raise SpaceError(path, rule, f"{x.dtype} {x.shape[1:]}")
        if len(strange := np.setdiff1d(y, present)):
            rule = f"y of {name} must hold only classes that train has ({_listed(present)})"
            raise SpaceError(path, rule, strange[:20].tolist())
    names = () if np.array_equal(present, np.arange(len(present))) else tuple(map(str, present))
    return {name: (x, np.searchsorted(present, y)) for name, (x, y) in parts.items()}, names


def _listed(labels: np.ndarray) -> str:
    return ", ".join(map(str, labels[:10])) + (", ..." if len(labels) > 10 else "")


def metric_values(metrics: Any) -> dict[str, float]:
    """The result of a task's metrics function, checked: name -> finite number.

    Raises:
        TrialError: the result is something else; names the metric.
    """
    if not isinstance(metrics, Mapping):
        raise TrialError(f"metrics must return a mapping name -> number, but got {type(metrics).__name__!r}")
    for name, value in metrics.items():
        if rule := metric_name_mistake(name):
            raise TrialError(f"metric {name!r} {rule}; give it another name")
        try:
            finite = math.isfinite(float(value))
        except (TypeError, ValueError):
            raise TrialError(f"metric {name!r} must be a number, but got {value!r}") from None
        if not finite:
            raise TrialError(f"metric {name!r} must be finite, but got {float(value)}")
    return {name: float(value) for name, value in metrics.items()}
