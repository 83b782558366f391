"""Checks of a user's arrays, with one message for each possible mistake."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.errors import SpaceError, TrialError
from harness.records import metric_name_mistake

Samples = tuple[np.ndarray, np.ndarray]  # x (N, C, H, W) or (N, F), uint8 or float32; y (N,) int64

_NUMBER = "Number the classes: numpy.unique(y, return_inverse=True)[1]."
SHAPES = "(samples, features), (samples, height, width) or (samples, channels, height, width)"


def checked(path: str, where: str, x: Any, y: Any) -> Samples:
    """x and y converted to :data:`Samples`.

    x  uint8 stays, floats become float32; images without a channel axis get one
    y  integers, (N,)
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
    if y.dtype.kind not in "iu":
        raise SpaceError(path, f"{where}: y must hold integer class numbers", str(y.dtype), _NUMBER)
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            x = x.astype(np.float32, copy=False)
        if bad := int((~np.isfinite(x)).sum()):
            raise SpaceError(path, f"{where}: x must be finite in float32, {bad} of {x.size} values are not")
    return (x[:, None] if x.ndim == 3 else x), y.astype(np.int64, copy=False)


def check_together(path: str, parts: Mapping[str, Samples]) -> None:
    """Check that all parts have the same sample shape and dtype, that ``train`` has samples of all classes 0..C-1,
    C > 1, and that the other parts have no other classes.

    Raises:
        SpaceError: at ``path``.
    """
    train_x, train_y = parts["train"]
    present = np.unique(train_y)
    if len(present) < 2:
        raise SpaceError(path, "there must be at least two classes in y of train", present.tolist())
    if present[0] != 0 or present[-1] != len(present) - 1:
        raise SpaceError(
            path,
            f"y of train must hold each of the class numbers 0..{len(present) - 1}",
            present[:20].tolist(),
            _NUMBER,
        )
    for name, (x, y) in parts.items():
        if x.shape[1:] != train_x.shape[1:] or x.dtype != train_x.dtype:
            rule = f"a sample of {name} must be {train_x.dtype} {train_x.shape[1:]} as in train"
            raise SpaceError(path, rule, f"{x.dtype} {x.shape[1:]}")
        if len(strange := np.setdiff1d(y, present)):
            rule = f"y of {name} must hold only classes that train has (0..{len(present) - 1})"
            raise SpaceError(path, rule, strange[:20].tolist())


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
