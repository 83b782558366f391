"""Choosing points of a front: the four named ones, and the best under given limits."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from harness.errors import SpaceError
from harness.methods import nearest
from harness.records import trial_folder
from harness.report import units
from harness.report.study_data import StudyData
from harness.space.settings import Objective
from harness.stats import pareto

TOLERANCE = 0.02  # quality that ``smallest`` and ``fastest`` may lose against the best; more allows smaller files


def best_points(data: StudyData) -> dict[str, int]:
    """The front's named points: name -> trial number.

    ``most_accurate`` has the best quality; it is called ``best_NAME`` if the quality is a metric NAME of the task.
    ``knee``, ``smallest`` and ``fastest`` are chosen among :func:`near_best`; there is no ``fastest`` if no latency
    was measured. Ties go to the better quality, then to the smaller file, then to the lower number. Test values are
    not used.
    """
    front = data.front
    if front.empty:
        return {}
    near = near_best(data)
    axes = knee_axes(data)
    names = [a.name for a in axes]
    coordinates = near[names].astype(float).copy()
    for cost in [n for n in names if n in pareto.LOGGED]:
        coordinates[cost] = _log(coordinates[cost])
    middle = pareto.knee(coordinates.to_numpy(), [a.direction for a in axes])
    ranked = data.best_first(near, "size_bytes", "number")
    cheapest = {"smallest": "size_bytes"} | ({"fastest": "latency_ms"} if near["latency_ms"].notna().any() else {})
    return {
        "knee": int(near["number"].iloc[middle]),
        **{name: int(ranked.sort_values(cost, kind="stable")["number"].iloc[0]) for name, cost in cheapest.items()},
        top_name(data): int(data.best_first(front, "size_bytes", "number")["number"].iloc[0]),
    }


def near_best(data: StudyData) -> pd.DataFrame:
    """The front points within ``TOLERANCE`` of the best quality, or within that share of it where its absolute value
    is above 1; the smallest file first."""
    front, name = data.front, data.quality.name
    best = float(data.best_first(front)[name].iloc[0])
    return front[(front[name] - best).abs() <= TOLERANCE * max(1.0, abs(best))]


def knee_axes(data: StudyData) -> list[Objective]:
    """The quantities that the knee weighs: the qualities, and the costs that are known of all :func:`near_best`."""
    near = near_best(data)
    return [*data.qualities, *(Objective(c, "minimize") for c in data.costs if near[c].notna().all())]


def top_name(data: StudyData) -> str:
    """The name of the point of the best quality."""
    name = data.quality.name
    return "most_accurate" if name == "accuracy" else f"best_{re.sub(r'[^A-Za-z0-9_-]', '_', name)}"


def _log(column: pd.Series) -> pd.Series:
    import numpy as np

    return np.log(column.clip(lower=1e-9))


def recipe_yaml(data: StudyData, number: int) -> str:
    """A file for ``harness train``: the recipe of a trial and, under ``promise``, the values that it reached."""
    record, row = data.records[number], data.trials.loc[number]
    promise: dict[str, Any] = {"study": data.name, "trial": number}
    for name, measured in record.measurements.items():
        promise[name] = measured.median
    promise["accuracy_n"] = record.measurements["accuracy"].conditions.get("n")
    promise["directions"] = {q.name: q.direction for q in data.qualities}
    if not units.missing(row["test_accuracy"]):
        tests = [f"test_{n}" for n in record.measurements if f"test_{n}" in row]
        promise |= {**{n: float(row[n]) for n in tests}, "test_n": int(row["test_n"])}
    if "latency_ms" in record.measurements:
        latency = record.measurements["latency_ms"]
        promise["latency_interval_ms"] = list(latency.interval())
        promise["host"] = latency.conditions.get("host")
    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.dump({**record.recipe, "promise": promise}, out)
    return f"# trial {number} of {data.name}; train it with: harness train FILE\n{out.getvalue()}"


@dataclass(frozen=True)
class Pick:
    """A chosen point of a front.

    model   the exported file
    recipe  the YAML file for ``harness train``, with the promise if the report was written
    values  measured quantity -> median, and ``test_accuracy`` and other test values where they were measured
    yaml    the recipe with its promise, as text
    """

    number: int
    model: Path
    recipe: Path
    values: Mapping[str, float]
    yaml: str


def front_recipe(data: StudyData, number: int) -> Path:
    """Where the report writes the recipe of a front point."""
    return data.folder / "best" / f"{number:05d}.yaml"


def pick(data: StudyData, most: Mapping[str, float] | None = None, least: Mapping[str, float] | None = None) -> Pick:
    """The best front point within limits.

    Without limits it is the recommended point, ``knee`` of :func:`best_points`. With limits it is the point of the best
    quality; if only qualities are limited, it is the point with the smallest file.

    Args:
        most: measured quantity -> its highest allowed value.
        least: measured quantity -> its lowest allowed value.
    Raises:
        SpaceError: a quantity is unknown, or no point is within the limits; the message names the nearest point.
    """
    most, least = most or {}, least or {}
    for side, limits in (("--max", most), ("--min", least)):
        for name in limits:
            if name not in data.measured:
                raise SpaceError(side, "must be a quantity that the study measured", name, nearest(name, data.measured))
    good = data.front
    for name, limit in most.items():
        good = good[good[name] <= limit]
    for name, limit in least.items():
        good = good[good[name] >= limit]
    if good.empty:
        raise SpaceError(
            str(data.folder), "no point of the front is within these limits", remedy=_nearest(data, most, least)
        )
    limited, recommended = {*most, *least}, best_points(data).get("knee")
    if not limited and recommended is not None:
        return _picked(data, recommended)
    order = data.best_first(good, "size_bytes", "number")
    if limited and not limited & {*pareto.LOGGED}:
        order = order.sort_values("size_bytes", kind="stable")
    return _picked(data, int(order["number"].iloc[0]))


def _picked(data: StudyData, number: int) -> Pick:
    row, written = data.trials.loc[number], front_recipe(data, number)
    tests = [name for name in data.trials if name.startswith("test_") and not units.missing(row[name])]
    return Pick(
        number,
        data.folder / row["model"],
        written if written.is_file() else trial_folder(data.folder, number) / "recipe.yaml",
        {name: float(row[name]) for name in (*data.records[number].measurements, *tests) if name in data.trials},
        recipe_yaml(data, number),
    )


def _nearest(data: StudyData, most: Mapping[str, float], least: Mapping[str, float]) -> str:
    """A sentence about the point that misses the limits least.

    The miss is relative to each limit, summed over the limits. A miss in a quality counts ten times: a given share of
    an accuracy matters more than the same share of a cost.
    """
    if data.front.empty:
        return "The front is empty."
    miss = pd.Series(0.0, index=data.front.index)
    for sign, limits in ((1, most), (-1, least)):
        for name, limit in limits.items():
            weight = 1 if name in pareto.LOGGED else 10
            miss += (sign * (data.front[name] - limit)).clip(lower=0) / max(abs(limit), 1e-9) * weight
    row = data.front.loc[miss.idxmin()]
    names = dict.fromkeys([*(q.name for q in data.qualities), *data.costs, *most, *least])
    quantities = ", ".join(f"{units.head(n)} {units.quantity(n, row[n])}" for n in names)
    return f"The nearest is trial {row['number']}: {quantities}."
