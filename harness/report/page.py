"""The report: one HTML file that opens offline, two CSV files and the named recipes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io
from jinja2 import Environment, PackageLoader

from harness.records import read_json, write_bytes_durably
from harness.report import plots, units
from harness.report.audits import COLUMNS as AUDIT_COLUMNS
from harness.report.audits import audit_rows, slower_integers
from harness.report.confirmed import COLUMNS as CONFIRMED_COLUMNS
from harness.report.confirmed import confirmed_rows, note
from harness.report.data import StudyData
from harness.report.fronts import accuracy_interval, comparison, reference_point, tied_members
from harness.report.picks import best_points, recipe_yaml
from harness.report.tables import write_csv

PARITY_DISAGREEMENTS = 2
ENDED = {"stopped": "stopped early", "failed": "failed"}  # a record's status, in words


def write_report(data: StudyData) -> Path:
    """Write ``report/`` and ``best/`` of the study; returns the page's path."""
    folder = data.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(data, folder)
    points = best_points(data)
    for name, number in points.items():
        write_bytes_durably(data.folder / "best" / f"{name}.yaml", recipe_yaml(data, number).encode())
    page = folder / "index.html"
    write_bytes_durably(page, render(data, points).encode())
    return page


def render(data: StudyData, points: dict[str, int]) -> str:
    """The page's HTML; equal studies give equal bytes."""
    environment = Environment(
        loader=PackageLoader("harness.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("page.html.j2")
    return template.render(
        name=data.name,
        study=data.study,
        facts=facts(data),
        summary=summary(data),
        warnings=warnings(data),
        figures=_figures(data),
        reference=", ".join(units.quantity(name, value) for name, value in reference_point(data).items()),
        audits={"columns": AUDIT_COLUMNS, "rows": audit_rows(data)},
        confirmed=_confirmed(data),
        columns=_columns(data),
        rows=_rows(data),
        points=points,
        plotly_js=plotly.offline.get_plotlyjs(),
        version=data.environment.get("harness", ""),
    )


def _confirmed(data: StudyData) -> dict[str, Any]:
    result = read_json(data.folder / "confirm.json")
    if not result.get("points"):
        return {"rows": []}
    return {"columns": CONFIRMED_COLUMNS, "rows": confirmed_rows(result), "note": note(result)}


def _figures(data: StudyData) -> dict[str, str]:
    figures: dict[str, go.Figure] = {}
    if not data.finished.empty:
        figures = {f"tradeoff_{cost}": plots.tradeoff(data, cost) for cost in data.costs}
        figures |= {"volume": plots.volume(data), "waterfall": plots.waterfall(data), "parallel": plots.parallel(data)}
    if any(data.importances.values()):
        figures["importance"] = plots.importance(data)
    return {
        name: plotly.io.to_html(
            f,
            include_plotlyjs=False,
            full_html=False,
            div_id=name,
            default_width="100%",
            config={"displaylogo": False, "responsive": True},
        )
        for name, f in figures.items()
    }


def facts(data: StudyData) -> list[tuple[str, str]]:
    """What a reader needs to judge the numbers."""
    machine = data.environment
    counts = data.trials["status"].value_counts()
    ended = ", ".join(f"{counts[s]} {words}" for s, words in ENDED.items() if counts.get(s))
    latency = next(
        (r.measurements["latency_ms"].conditions for r in data.records.values() if "latency_ms" in r.measurements), {}
    )
    found = [
        ("Trials", f"{len(data.finished)} finished, {ended + ', ' if ended else ''}{len(data.front)} on the front"),
        ("Status", str(data.study.get("status", "unknown"))),
        (
            "Machine",
            f"{machine.get('cpu_model', '?')}, {machine.get('cores', '?')} cores, {', '.join(machine.get('isa', []))}",
        ),
        (
            "Runtime",
            f"{latency.get('runtime', '?')} {machine.get('onnxruntime', '')}, batch {latency.get('batch_size', '?')}, "
            f"{latency.get('threads', '?')} thread(s)",
        ),
        ("Command", str(data.study.get("command", ""))),
        ("Wall time", f"{data.study['wall_s']:.0f} s" if "wall_s" in data.study else "?"),
    ]
    return found


def summary(data: StudyData) -> list[str]:
    """What the search found, in sentences; also when it found nothing."""
    if data.front.empty:
        return ["No trial finished within the constraints: there is no front yet."]
    told = [_shrinking(data)] if data.widest is not None else []
    volumes = comparison(data)
    against = f"hypervolume {volumes['searched']:.3f} against {volumes['sweep']:.3f}"
    if volumes["beats"] is True:
        told.append(f"The searched trials beat the plain fp32 width sweep: {against}.")
    elif volumes["beats"] is False:
        told.append(f"This front has bought nothing over the plain fp32 width sweep: {against}.")
    told += slower_integers(data)
    told.append(
        "Accuracies that selected the points are those of the validation part and flatter by their selection; "
        "the test accuracy beside them was taken once, at the end."
    )
    return told


def _shrinking(data: StudyData) -> str:
    widest = data.widest
    near = data.front[data.front["accuracy"] >= widest["accuracy"] - 0.01] if widest is not None else data.front
    if widest is None or near.empty:
        return "No point of the front is within 1 accuracy point of the widest fp32 student."
    best = near.sort_values("size_bytes").iloc[0]
    lost = widest["accuracy"] - best["accuracy"]
    ratio = widest["size_bytes"] / best["size_bytes"]
    change = f"{units.points(lost)} lower" if lost > 0 else "as accurate or better"
    return (
        f"Trial {best['number']} has 1/{ratio:.1f} of the widest fp32 student's file "
        f"({units.size(best['size_bytes'])} against {units.size(widest['size_bytes'])}), {change} on validation."
    )


def _unstable(data: StudyData, number: int) -> bool:
    return data.records[number].measurements["latency_ms"].conditions.get("verdict") == "unstable"


def warnings(data: StudyData) -> list[str]:
    """What weakens a number on this page."""
    found = [f"trials/{name}: the record is broken or does not match its file; left out" for name in data.unreadable]
    for number in data.front["number"].tolist():
        parity = data.records[number].diagnostics.get("parity", {})
        if parity.get("disagreements", 0) > PARITY_DISAGREEMENTS:
            found.append(
                f"trial {number}: file and training disagree on {parity['disagreements']:.0f} "
                f"of {parity['n']:.0f} samples"
            )
    unstable = [str(n) for n in data.front["number"].tolist() if _unstable(data, n)]
    if unstable:
        found.append(f"the latency measurement was unstable for these trials: {', '.join(unstable)}")
    ties = tied_members(data)
    if ties:
        pairs = ", ".join(f"{a} (with {b})" for a, b in ties.items())
        found.append(f"on the front only by a latency difference within the noise: {pairs}")
    if data.widest is not None:
        n = data.records[int(data.widest["number"])].measurements["accuracy"].conditions.get("n")
        if n:
            low, high = accuracy_interval(float(data.front["accuracy"].max()), float(n))
            found.append(
                f"validation has {n} samples: the best accuracy is known to "
                f"{units.share(low)} .. {units.share(high)} (95 %)"
            )
    return found


def _columns(data: StudyData) -> list[str]:
    names = ["number", "status", "front", "accuracy", "test_accuracy", "size_bytes", "latency_ms", "baseline"]
    return [*names, *data.searched, "duration_s", "model"]


def _rows(data: StudyData) -> list[dict[str, Any]]:
    """Cells as (text, sort key)."""
    rows = []
    for _, row in data.trials.sort_values(["front", "number"], ascending=[False, True]).iterrows():
        cells = {name: _cell(name, row.get(name)) for name in _columns(data)}
        rows.append({"front": bool(row["front"]), "cells": cells, "reason": row["reason"], "model": row["model"]})
    return rows


def _cell(name: str, value: Any) -> tuple[str, str]:
    if name == "front":
        return ("yes" if value else "", "1" if value else "0")
    if isinstance(value, bool):
        return str(value), str(value)
    number = isinstance(value, int | float) and not (isinstance(value, float) and math.isnan(value))
    text = units.quantity(name, value) if number and name not in ("number", "duration_s") else units.plain(value)
    return text, f"{float(value):.12g}" if number else text
