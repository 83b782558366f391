"""Which points of a front to take: the four named ones, and the best under given limits."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from harness import pareto
from harness.errors import SpaceError
from harness.report import units
from harness.report.data import StudyData

TOLERANCE = 0.02  # accuracy that ``smallest`` and ``fastest`` may give up against the best


def best_points(data: StudyData) -> dict[str, int]:
    """Name -> trial number: ``knee``, ``most_accurate``, and within ``TOLERANCE`` of the best
    accuracy the ``smallest`` and the ``fastest``."""
    front = data.front
    if front.empty:
        return {}
    near = front[front["accuracy"] >= front["accuracy"].max() - TOLERANCE]
    coordinates = near[["accuracy", "size_bytes", "latency_ms"]].astype(float).copy()
    coordinates["size_bytes"] = _log(coordinates["size_bytes"])
    coordinates["latency_ms"] = _log(coordinates["latency_ms"])
    middle = pareto.knee(coordinates.to_numpy(), ("maximize", "minimize", "minimize"))
    return {
        "knee": int(near["number"].iloc[middle]),
        "smallest": int(near.sort_values(["size_bytes", "accuracy"], ascending=[True, False])["number"].iloc[0]),
        "fastest": int(near.sort_values(["latency_ms", "accuracy"], ascending=[True, False])["number"].iloc[0]),
        "most_accurate": int(front.sort_values(["accuracy", "size_bytes"], ascending=[False, True])["number"].iloc[0]),
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
    if not units.missing(row["test_accuracy"]):
        promise |= {"test_accuracy": float(row["test_accuracy"]), "test_n": int(row["test_n"])}
    if "latency_ms" in record.measurements:
        latency = record.measurements["latency_ms"]
        promise["latency_interval_ms"] = list(latency.interval())
        promise["host"] = latency.conditions.get("host")
    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.dump({**record.recipe, "promise": promise}, out)
    return f"# trial {number} of {data.name}; train it with: harness train FILE\n{out.getvalue()}"


def pick(
    data: StudyData,
    max_latency_ms: float | None = None,
    max_size_bytes: float | None = None,
    min_accuracy: float | None = None,
) -> str:
    """The recipe to take: of the front's points within the limits the most accurate one, and
    where only an accuracy is asked for, the smallest file that has it.

    Raises:
        SpaceError: no point is within the limits; names the nearest one.
    """
    front = data.front
    limits = {"latency_ms": max_latency_ms, "size_bytes": max_size_bytes}
    good = front
    for name, limit in limits.items():
        good = good if limit is None else good[good[name] <= limit]
    if min_accuracy is not None:
        good = good[good["accuracy"] >= min_accuracy]
    if good.empty:
        raise SpaceError(
            str(data.folder),
            "no point of the front is within these limits",
            remedy=_nearest(data, limits, min_accuracy),
        )
    free = all(limit is None for limit in limits.values()) and min_accuracy is not None
    order = (["size_bytes", "accuracy"], [True, False]) if free else (["accuracy", "size_bytes"], [False, True])
    return recipe_yaml(data, int(good.sort_values(order[0], ascending=order[1])["number"].iloc[0]))


def _nearest(data: StudyData, limits: dict[str, float | None], min_accuracy: float | None) -> str:
    if data.front.empty:
        return "The front is empty."
    miss = pd.Series(0.0, index=data.front.index)
    for name, limit in limits.items():
        if limit is not None:
            miss += (data.front[name] / limit - 1).clip(lower=0)
    if min_accuracy is not None:
        miss += (min_accuracy - data.front["accuracy"]).clip(lower=0) * 10
    row = data.front.loc[miss.idxmin()]
    return (
        f"The nearest is trial {row['number']}: {units.share(row['accuracy'])}, {units.size(row['size_bytes'])}, "
        f"{units.time(row['latency_ms'])}."
    )
