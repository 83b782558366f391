"""The decision card: the point to deploy and why, and the other named points.

The recommended point is the knee (:func:`harness.report.picks.best_points`), so ``best/knee.yaml`` is its recipe. Test
values are shown and never used to choose.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.report import units
from harness.report.fronts import accuracy_interval, majority_level, tied_members
from harness.report.picks import TOLERANCE, knee_axes, near_best, top_name
from harness.report.study_data import StudyData
from harness.report.tables import short_recipe

Row = pd.Series


def card(data: StudyData, points: dict[str, int]) -> dict[str, Any]:
    """What the template needs; without a front only ``says``.

    Args:
        points: the named points of the front, which :func:`harness.report.picks.best_points` chose.
    """
    if data.front.empty:
        finished = len(data.finished)
        why = "no trial finished" if not finished else f"none of the {finished} finished trials meets the constraints"
        return {"says": f"There is nothing to deploy yet: {why}."}
    number, notes = points["knee"], point_notes(data)
    row = data.front.loc[number]
    return {
        "number": number,
        "recipe": ", ".join(filter(None, [str(row["baseline"]), short_recipe(data, row)])),
        "rule": _knee_rule(data, number),
        "tiles": [*_quality_tiles(data, row), *(_cost_tile(data, row, cost) for cost in data.costs)],
        "notes": [*notes.get(number, []), *_gaps(data)],
        "model": str(row["model"]),
        "yaml": "best/knee.yaml",
        "heads": [units.head(_shown(data)), *(units.head(cost) for cost in data.costs)],
        "others": [_other(data, name, points[name], number, notes) for name in points if name != "knee"],
    }


def _shown(data: StudyData) -> str:
    """The column that stands for quality in short tables: on test if the front was tested."""
    test = f"test_{data.quality.name}"
    return test if data.front[test].notna().any() else data.quality.name


def _near(data: StudyData) -> str:
    """The tolerance of the named points, in words."""
    name = data.quality.name
    best = float(data.best_first(data.front)[name].iloc[0])
    if name == "accuracy":
        return f"{100 * TOLERANCE:g} accuracy points of the best"
    return f"{100 * TOLERANCE:g} % of the best {name}" if abs(best) > 1 else f"{TOLERANCE:g} of the best {name}"


def _knee_rule(data: StudyData, number: int) -> str:
    count, near = len(near_best(data)), f"within {_near(data)} on validation"
    if len(data.front) == 1:
        return f"Trial {number} is the only point of the front."
    if count == 1:
        return f"Trial {number} is the only one of the front's {len(data.front)} points {near}."
    axes = ", ".join(f"{_BEST[a.direction]} {units.head(a.name)}" for a in knee_axes(data))
    return (
        f"Of the front's {len(data.front)} points, {count} are {near}. Trial {number} is the nearest of these to the "
        f"ideal ({axes}). Each quantity is scaled to its range among them, costs on a log scale. In a tie the smaller "
        f"file is taken. Test values are not used."
    )


_BEST = {"maximize": "highest", "minimize": "lowest"}


def _quality_tiles(data: StudyData, row: Row) -> list[dict[str, str]]:
    """One tile per quality: the test value if there is one, with its interval, and the difference to the widest fp32
    student on the same split."""
    tiles = []
    for quality in data.qualities:
        name = f"test_{quality.name}" if not units.missing(row[f"test_{quality.name}"]) else quality.name
        split = "test" if name.startswith("test_") else "validation"
        tiles.append(
            {
                "label": f"{quality.name} ({split})",
                "value": units.quantity(name, row[name]),
                "detail": _interval(data, row, name),
                "against": _difference(data, row, quality.name, quality.direction == "maximize"),
            }
        )
    return tiles


def _interval(data: StudyData, row: Row, name: str) -> str:
    """The 95 % interval of an accuracy, or of the median latency; empty for what has none."""
    if name == "latency_ms":
        low, high = row["latency_low"], row["latency_high"]
        return "" if units.missing(low) else f"95 % interval of the median {units.time(low)} .. {units.time(high)}"
    n = {"test_accuracy": row["test_n"], "accuracy": data.accuracy_n(int(row["number"]))}.get(name)
    if n is None or units.missing(n) or not n:
        return ""
    low, high = accuracy_interval(float(row[name]), float(n))
    return f"95 % interval {units.share(low)} .. {units.share(high)}, n = {n:.0f}"


def _difference(data: StudyData, row: Row, quality: str, up: bool) -> str:
    widest = _reference(data, row)
    if widest is None:
        return ""
    test = f"test_{quality}"
    both = not units.missing(row[test]) and not units.missing(widest[test])
    name, split = (test, "test") if both else (quality, "validation")
    if units.missing(row[name]) or units.missing(widest[name]):
        return ""
    gain = float(row[name] - widest[name])
    word = "equal to" if gain == 0 else f"{units.difference(name, abs(gain))} {'above' if gain > 0 else 'below'}"
    judged = "" if gain == 0 else " (better)" if (gain > 0) == up else ""
    return f"{word} the widest fp32 student{judged}: {units.quantity(name, widest[name])} on {split}"


def _reference(data: StudyData, row: Row) -> Row | None:
    """The widest fp32 student, unless the row is that student."""
    widest = data.widest
    return None if widest is None or widest["number"] == row["number"] else widest


def _cost_tile(data: StudyData, row: Row, cost: str) -> dict[str, str]:
    widest, against = _reference(data, row), ""
    if widest is not None and not units.missing(widest[cost]) and not units.missing(row[cost]) and row[cost] > 0:
        ratio = float(row[cost] / widest[cost]) if widest[cost] > 0 else 1.0
        times = f"1/{1 / ratio:.1f} of" if ratio < 0.5 else f"{ratio:.2f} times that of" if ratio != 1 else "that of"
        against = f"{times} the widest fp32 student ({units.quantity(cost, widest[cost])})"
    value = units.quantity(cost, row[cost]) or "not measured"
    return {"label": units.head(cost), "value": value, "detail": _interval(data, row, cost), "against": against}


def point_notes(data: StudyData) -> dict[int, list[str]]:
    """Front point -> what weakens its numbers, short: unstable latency, tied, at chance level."""
    notes: dict[int, list[str]] = {}
    for number in data.front["number"].tolist():
        latency = data.records[number].measurements.get("latency_ms")
        if latency is not None and latency.conditions.get("verdict") == "unstable":
            notes.setdefault(number, []).append("latency unstable: measure it again before you rely on it")
    for number, other in tied_members(data).items():
        notes.setdefault(number, []).append(
            f"tied: on the front only by a latency difference within the noise; trial {other} is at least as good "
            "in everything else"
        )
    for number in majority_level(data, data.front):
        notes.setdefault(number, []).append("no better than always saying the most frequent class")
    return notes


def _gaps(data: StudyData) -> list[str]:
    """What the study cannot say about its points."""
    gaps = []
    if data.front[f"test_{data.quality.name}"].isna().all():
        gaps.append("no test value yet: validation values are optimistic, because points are chosen by them")
    if "latency_ms" not in data.costs:
        gaps.append("latency was not measured in this study")
    if data.widest is None:
        gaps.append("no widest fp32 student to compare with")
    return gaps


def _other(data: StudyData, name: str, number: int, recommended: int, notes: dict[int, list[str]]) -> dict[str, Any]:
    row = data.front.loc[number]
    shown = [_shown(data), *data.costs]
    return {
        "title": "most accurate" if name == "most_accurate" else name.replace("_", " "),
        "rule": _RULES[name].format(_near(data)) if name in _RULES else _top_rule(data, name),
        "number": number,
        "same": number == recommended,
        "cells": [units.quantity(column, row[column]) for column in shown],
        "notes": [note.partition(":")[0] for note in notes.get(number, [])],
        "yaml": f"best/{name}.yaml",
        "model": str(row["model"]),
    }


_RULES = {"smallest": "smallest file within {} (validation)", "fastest": "lowest latency within {} (validation)"}


def _top_rule(data: StudyData, name: str) -> str:
    assert name == top_name(data)
    return f"{_BEST[data.quality.direction]} {data.quality.name} on validation; in a tie the smaller file"
