"""What the page needs to choose a point within limits, by the rule of :func:`harness.report.picks.pick` (limits.js)."""

from __future__ import annotations

from typing import Any

from harness.report import units
from harness.report.decision import point_notes
from harness.report.picks import best_points
from harness.report.study_data import StudyData
from harness.stats.pareto import LOGGED

OPTIONS = {"accuracy": "--min-accuracy", "size_bytes": "--max-size-bytes", "latency_ms": "--max-latency-ms"}


def limit_fields(data: StudyData) -> list[dict[str, Any]]:
    """One number field for each quality and each measured cost.

    ``side`` is ``least`` or ``most``. A field's number times ``factor`` is the limit; ``option`` and ``assigns`` say
    how ``harness pick`` takes it; ``low`` and ``high`` are the front's range in the field's unit.
    """
    sides = {q.name: "least" if q.direction == "maximize" else "most" for q in data.qualities}
    sides |= dict.fromkeys(data.costs, "most")
    return [_field(data, name, side) for name, side in sides.items() if name in data.measured]


def _field(data: StudyData, name: str, side: str) -> dict[str, Any]:
    values = [float(v) for v in data.front[name].dropna()]
    unit, factor = units.scale(name, values)
    usual = name in OPTIONS and side == ("least" if name == "accuracy" else "most")
    return {
        "name": name,
        "head": units.head(name),
        "side": side,
        "unit": unit,
        "factor": factor,
        "whole": name == "size_bytes",
        "percent": unit == "%",
        "option": OPTIONS[name] if usual else {"least": "--min", "most": "--max"}[side],
        "assigns": not usual,
        "low": _short(min(values) / factor) if values else "",
        "high": _short(max(values) / factor) if values else "",
        "weight": 1 if name in LOGGED else 10,
        "cost": name in LOGGED,
    }


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def limit_data(data: StudyData) -> dict[str, Any]:
    """The front's points in order, and the fields; the page reads it as JSON."""
    fields, notes = limit_fields(data), point_notes(data)
    names = dict.fromkeys([data.quality.name, "size_bytes", *(f["name"] for f in fields)])
    return {
        "quality": {"name": data.quality.name, "up": data.quality.direction == "maximize"},
        "fields": fields,
        "own": data.own_front,
        "recommended": best_points(data).get("knee"),
        "points": [
            {
                "number": int(number),
                "values": {name: float(row[name]) for name in names},
                "text": _text(data, row, notes.get(int(number), [])),
                "model": str(row["model"]),
                "yaml": f"best/{number:05d}.yaml",
            }
            for number, row in data.front.iterrows()
        ],
    }


def _text(data: StudyData, row: Any, notes: list[str]) -> str:
    names = [n for q in data.qualities for n in (q.name, f"test_{q.name}")] + data.costs
    values = [f"{units.title(n)} {units.quantity(n, row[n])}" for n in names if not units.missing(row[n])]
    return "; ".join([", ".join(values), *(note.partition(":")[0] for note in notes)])
