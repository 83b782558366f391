"""Normalization of the network's input.

    x -> (x - mean) / std,   mean and std in the data's raw units

The exported file takes raw samples and contains this step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import SpaceError
from harness.methods import is_mapping, is_number

EXAMPLE = "In the data's raw units: a network that read bytes divided by 255 (ToTensor) has {mean: 0, std: 255}."


@dataclass(frozen=True, kw_only=True)
class Normalize:
    """Means and standard deviations, of equal number: one for all values, or one per channel of an image (per feature
    of a vector)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


Normalization = Literal["auto", "none"] | Normalize


def read_normalize(path: str, value: Any) -> Normalization:
    """``auto``, ``none``, or a mapping of ``mean`` and ``std``, each a number or a list of numbers.

    Raises:
        SpaceError: at ``path``.
    """
    if isinstance(value, str) and value in ("auto", "none"):
        return "auto" if value == "auto" else "none"
    if not is_mapping(value) or set(value) != {"mean", "std"}:
        raise SpaceError(path, "must be auto, none or {mean: ..., std: ...}", value, EXAMPLE)
    mean, std = (_numbers(f"{path}.{name}", value[name]) for name in ("mean", "std"))
    for number in std:
        if number <= 0:
            raise SpaceError(f"{path}.std", "must be above 0", number, EXAMPLE)
    n = max(len(mean), len(std))
    if {len(mean), len(std)} - {1, n}:
        raise SpaceError(path, "must have as many deviations as means", f"{len(mean)} means, {len(std)} deviations")
    return Normalize(mean=mean * (n // len(mean)), std=std * (n // len(std)))


def _numbers(path: str, value: Any) -> tuple[float, ...]:
    numbers = [value] if is_number(value) else list(value) if hasattr(value, "__len__") else []
    if isinstance(value, str | Mapping) or not numbers or not all(is_number(n) for n in numbers):
        raise SpaceError(path, "must be a finite number or a list of them", value, EXAMPLE)
    return tuple(float(n) for n in numbers)
