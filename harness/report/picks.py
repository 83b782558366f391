"""Which points of a front to take: the four named ones, and the best under given limits."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from harness.errors import SpaceError
from harness.methods import nearest
from harness.report import units
from harness.report.study_data import StudyData
from harness.space.settings import Objective
from harness.stats import pareto

TOLERANCE = 0.02  # of quality that ``smallest`` and ``fastest`` may give up against the best


def best_points(data: StudyData) -> dict[str, int]:
    """Name -> trial number: ``knee``, ``most_accurate`` (``best_NAME`` where the quality is a metric NAME
    of the task), and near the best quality the ``smallest`` and the ``fastest``.

    Near is within ``TOLERANCE``, of a metric beyond 1 within that share of it.
    """
    front = data.front
    if front.empty:
        return {}
    quality = data.quality
    best = float(data.best_first(front)[quality.name].iloc[0])
    near = front[(front[quality.name] - best).abs() <= TOLERANCE * max(1.0, abs(best))]
    axes = [*data.qualities, *(Objective(c, "minimize") for c in data.costs if near[c].notna().all())]
    names = [a.name for a in axes]
    coordinates = near[names].astype(float).copy()
    for cost in [n for n in names if n in pareto.LOGGED]:
        coordinates[cost] = _log(coordinates[cost])
    middle = pareto.knee(coordinates.to_numpy(), [a.direction for a in axes])
    top = "most_accurate" if quality.name == "accuracy" else f"best_{re.sub(r'[^A-Za-z0-9_-]', '_', quality.name)}"
    ranked = data.best_first(near)
    return {
        "knee": int(near["number"].iloc[middle]),
        "smallest": int(ranked.sort_values("size_bytes", kind="stable")["number"].iloc[0]),
        "fastest": int(ranked.sort_values("latency_ms", kind="stable")["number"].iloc[0]),
        top: int(data.best_first(front, "size_bytes")["number"].iloc[0]),
    }


def _log(column: pd.Series) -> pd.Series:
    import numpy as np

    return np.log(column.clip(lower=1e-9))


def recipe_yaml(data: StudyData, number: int) -> str:
    """The recipe of a trial with what it promises: a file for ``harness train``."""
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


def pick(data: StudyData, most: Mapping[str, float] | None = None, least: Mapping[str, float] | None = None) -> str:
    """The recipe to take: of the front's points within the limits (measured quantity -> its highest, its
    lowest value) the one of the best quality, and where only qualities are limited, the smallest file
    that has them.

    Raises:
        SpaceError: an unknown quantity, or no point is within the limits; names the nearest one.
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
    limited = {*most, *least}
    order = data.best_first(good, "size_bytes")
    if limited and not limited & {*pareto.LOGGED}:
        order = order.sort_values("size_bytes", kind="stable")
    return recipe_yaml(data, int(order["number"].iloc[0]))


def _nearest(data: StudyData, most: Mapping[str, float], least: Mapping[str, float]) -> str:
    """The point that misses the limits least, in shares of them; a share of a quality counts ten times."""
    if data.front.empty:
        return "The front is empty."
    miss = pd.Series(0.0, index=data.front.index)
    for sign, limits in ((1, most), (-1, least)):
        for name, limit in limits.items():
            weight = 1 if name in pareto.LOGGED else 10
            miss += (sign * (data.front[name] - limit)).clip(lower=0) / max(abs(limit), 1e-9) * weight
    row = data.front.loc[miss.idxmin()]
    names = dict.fromkeys([*(q.name for q in data.qualities), *data.costs, *most, *least])
    told = ", ".join(f"{units.head(n)} {units.quantity(n, row[n])}" for n in names)
    return f"The nearest is trial {row['number']}: {told}."
