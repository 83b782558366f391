"""The tables of the page: cells with a text and a key to sort by; a column of quantities has one unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.report import units
from harness.report.fronts import majority_level
from harness.report.study_data import StudyData

Cell = tuple[str, str]  # text, key to sort by


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], name: str, **more: Any) -> dict[str, Any]:
    """A table of texts for the template. The page sorts them by the quantities that they begin with."""
    made = [{"cells": [(text, "") for text in row], "trial": _trial(columns, row)} for row in rows]
    return {"name": name, "heads": list(columns), "rows": made, **more}


def _trial(columns: Sequence[str], row: Sequence[str]) -> str:
    return row[0] if columns and columns[0] == "trial" else ""


def trial_table(data: StudyData) -> dict[str, Any]:
    """All trials, the front first."""
    columns, scales = _columns(data), _scales(data)
    rows = []
    for row in trial_rows(data):
        cells = [row["cells"][name] for name in columns]
        rows.append({**row, "cells": cells, "trial": row["cells"]["number"][0]})
    heads = [_head(name, scales) for name in columns]
    return {"name": "trials", "heads": heads, "rows": rows, "filter": True, "link": columns.index("model")}


def _head(name: str, scales: dict[str, tuple[str, float]]) -> str:
    unit = scales[name][0] if name in scales else ""
    return f"{units.head(name)} ({unit})" if unit else {"number": "trial"}.get(name, units.head(name))


def trial_rows(data: StudyData) -> list[dict[str, Any]]:
    """The rows of the table of trials; ``cells`` maps a column's name to its :data:`Cell`."""
    rows, level, columns, scales = [], majority_level(data, data.front), _columns(data), _scales(data)
    for _, row in data.trials.sort_values(["front", "number"], ascending=[False, True]).iterrows():
        cells = {name: _cell(name, row.get(name), scales) for name in columns}
        if row["number"] in level:
            cells["front"] = ("yes, as the most frequent class", "1")
        rows.append({"front": bool(row["front"]), "cells": cells, "reason": row["reason"], "model": row["model"]})
    return rows


def _quantities(data: StudyData) -> list[str]:
    scores = [n for q in data.qualities for n in (q.name, f"test_{q.name}")]
    return [*scores, *dict.fromkeys(["size_bytes", "latency_ms", *data.costs])]


def _columns(data: StudyData) -> list[str]:
    return ["number", "status", "front", *_quantities(data), "baseline", *data.searched, "duration_s", "model"]


def _scales(data: StudyData) -> dict[str, tuple[str, float]]:
    return {name: units.scale(name, data.trials[name].tolist()) for name in [*_quantities(data), "duration_s"]}


def _cell(name: str, value: Any, scales: dict[str, tuple[str, float]]) -> Cell:
    if name == "front":
        return ("yes" if value else "", "1" if value else "0")
    if isinstance(value, bool):
        return str(value), str(value)
    number = isinstance(value, int | float) and not (isinstance(value, float) and math.isnan(value))
    text = units.scaled(name, value, scales[name]) if number and name in scales else units.plain(value)
    return text, f"{float(value):.12g}" if number else text
