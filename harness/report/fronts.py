"""Fronts, hypervolumes and ties of a study's table, computed by :mod:`harness.stats.pareto`.

The hypervolume uses qualities (accuracy, metrics of the task) as they are and logarithms of costs: halving a file
counts the same at 100 kB as at 10 kB. The reference point is worse than every baseline and every point of the front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from harness.report.study_data import StudyData
from harness.space.settings import Objective
from harness.stats import pareto


def projected(rows: pd.DataFrame, cost: str, quality: Objective) -> pd.DataFrame:
    """The nondominated rows in the plane (cost, quality), cheapest first."""
    name = quality.name
    rows = rows[rows[cost].notna() & rows[name].notna()]
    directions = (quality.direction, "minimize")
    return rows[pareto.nondominated(rows[[name, cost]].to_numpy(float), directions)].sort_values([cost, name])


def reference_point(data: StudyData) -> dict[str, float]:
    """The hypervolume's reference point: objective name -> raw value.

    It is the point in ``study.json``, made worse where a baseline or a point of the front, on validation or on test,
    would otherwise contribute nothing (:func:`harness.stats.pareto.reference_point`). Without a point in
    ``study.json`` the same rule starts from accuracy 0.
    """
    names = [o.name for o in data.objectives]
    stored = data.study.get("reference")
    bounds = {"accuracy": 0.0, **data.chance, **(stored if isinstance(stored, Mapping) else {})}
    rows = data.finished[data.finished["front"] | (data.finished["baseline"] != "")]
    if rows.empty:
        return {n: float(bounds.get(n, 0.0)) for n in names}
    tested = rows.assign(**{q.name: rows[f"test_{q.name}"].fillna(rows[q.name]) for q in data.qualities})
    values = np.vstack([r[names].to_numpy(float) for r in (rows, tested)])
    return pareto.reference_point(values, names, [o.direction for o in data.objectives], bounds)


def hypervolume(rows: pd.DataFrame, data: StudyData) -> float:
    """Volume between the rows' front and the reference point (0 for no rows)."""
    return _volume(rows[[o.name for o in data.objectives]].to_numpy(float), data, reference_point(data))


def _volume(values: np.ndarray, data: StudyData, point: Mapping[str, float]) -> float:
    return pareto.log_hypervolume(values, point, [o.direction for o in data.objectives])


def running_hypervolume(rows: pd.DataFrame, data: StudyData) -> list[float]:
    """Hypervolume after each of the rows; computed only when the front changes."""
    values = rows[[o.name for o in data.objectives]].to_numpy(float)
    front = np.empty((0, len(data.objectives)))
    volumes, point = list[float](), reference_point(data)
    for value in values:
        tried = np.vstack([front, value])
        mask = pareto.nondominated(tried, [o.direction for o in data.objectives])
        changed = bool(mask[-1])
        front = tried[mask] if changed else front
        volumes.append(_volume(front, data, point) if changed or not volumes else volumes[-1])
    return volumes


def tied_members(data: StudyData) -> dict[int, int]:
    """Points that are on the front only by a latency difference within the measurement noise.

    Returns:
        Trial number -> number of a front point whose latency interval overlaps and which is at least as good in all
        other objectives and better in one.
    """
    if "latency_ms" not in [o.name for o in data.objectives]:
        return {}
    others = [o for o in data.objectives if o.name != "latency_ms"]
    front, ties = data.front, {}
    sign = np.array([1.0 if o.direction == "minimize" else -1.0 for o in others])
    values = front[[o.name for o in others]].to_numpy(float) * sign
    low, high = front["latency_low"].to_numpy(float), front["latency_high"].to_numpy(float)
    numbers = front["number"].to_numpy()
    for i in range(len(front)):
        better = (values <= values[i]).all(axis=1) & (values < values[i]).any(axis=1)
        overlapping = np.flatnonzero(better & (low <= high[i]) & (high >= low[i]))
        if len(overlapping):
            ties[int(numbers[i])] = int(numbers[overlapping[0]])
    return ties


def at_chance(accuracy: float, chance: float | None, n: float | None) -> bool:
    """Whether an accuracy on ``n`` samples is not significantly above ``chance``, the accuracy of always predicting
    the most frequent class. Normal approximation of the binomial, one-sided at 95 %."""
    if chance is None:
        return False
    margin = 1.645 * math.sqrt(chance * (1 - chance) / n) if n else 0.0
    return accuracy <= chance + margin


def majority_level(data: StudyData, rows: pd.DataFrame) -> list[int]:
    """Numbers of the rows whose accuracy is at the level of the most frequent class (:func:`at_chance`)."""
    chance, samples = data.chance.get("accuracy"), {n: data.records[n].measurements for n in rows["number"].tolist()}
    scored = [n for n, m in samples.items() if "accuracy" in m]
    return [n for n in scored if at_chance(rows.loc[n, "accuracy"], chance, samples[n]["accuracy"].conditions.get("n"))]


def accuracy_interval(share: float, n: float) -> tuple[float, float]:
    """95 % Wilson interval of an accuracy counted on ``n`` samples."""
    z = 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def comparison(data: StudyData) -> dict[str, Any]:
    """Hypervolumes of the search's own trials and of the plain fp32 width sweep.

    ``front`` is the hypervolume of all trials. ``searched`` leaves the baselines out, so that a search gets no credit
    for points that it was given.
    """
    finished = data.finished[data.finished["feasible"]]
    searched = hypervolume(finished[finished["baseline"] == ""], data)
    sweep = hypervolume(data.sweep, data)
    return {
        "front": hypervolume(data.front, data),
        "searched": searched,
        "sweep": sweep,
        "beats": None if data.sweep.empty else searched > sweep,
    }
