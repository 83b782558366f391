"""The comparison as one HTML page and a table for the terminal."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from rich.console import Console
from rich.table import Table

from harness.files.access import write_bytes_durably
from harness.report import units
from harness.report.compare import Contender, at, attained, tested, verdicts
from harness.report.embed import figure_id, rendered
from harness.report.fronts import projected
from harness.report.page import scale
from harness.report.plots import page_layout, tick_format
from harness.report.tradeoffs import log_axis
from harness.report.trial_table import plain_table
from harness.space.settings import Objective
from harness.stats.intervals import mean_interval

COLORS = ("#c2410c", "#2f6fed", "#15803d", "#8b5cf6", "#0e7490", "#db2777", "#a16207", "#64748b")
AXES = {"elapsed_s": "seconds since the first proposal", "epochs": "epochs trained, all trials together"}
GRID = 200


def write_comparison(contenders: Sequence[Contender], path: Path) -> Path:
    """Write the comparison page to ``path``."""
    first = contenders[0].studies[0]
    figures = {f"over_{axis}": over(contenders, axis) for axis in AXES}
    planes = {figure_id("front", c, q.name): (c, q) for q in first.qualities for c in first.costs}
    labels = [c.label for c in contenders]
    page = rendered(
        "compare.html.j2",
        figures | {name: fronts(contenders, *plane) for name, plane in planes.items()},
        labels=labels,
        verdicts=verdicts(contenders),
        fronts={name: f"{q.name} and {units.head(c)}" for name, (c, q) in planes.items()},
        scale=scale(first),
        quality=first.quality.name,
        scores=plain_table(SCORES, score_rows(contenders), "scores"),
        attained=[
            (units.head(c), plain_table(["at most", *labels], _attained_rows(contenders, c), figure_id("attained", c)))
            for c in first.costs
        ],
    )
    write_bytes_durably(path, page.encode())
    return path


def over(contenders: Sequence[Contender], axis: str) -> go.Figure:
    """Median hypervolume of each contender along ``axis``, with the range of its studies."""
    end = max(getattr(curve[-1], axis) for c in contenders for curve in c.curves)
    grid = np.linspace(0, end, GRID)
    figure = go.Figure()
    for contender, color in zip(contenders, COLORS * 9, strict=False):
        values = np.array([[at(curve, x, axis) for x in grid] for curve in contender.curves])
        low, high = values.min(axis=0), values.max(axis=0)
        if len(values) > 1:
            figure.add_scatter(
                x=[*grid, *grid[::-1]],
                y=[*high, *low[::-1]],
                fill="toself",
                fillcolor=color,
                opacity=0.15,
                line={"width": 0},
                showlegend=False,
                hoverinfo="skip",
            )
        figure.add_scatter(
            x=grid.tolist(),
            y=np.median(values, axis=0).tolist(),
            name=html.escape(contender.label),
            mode="lines",
            line={"color": color, "width": 2, "shape": "hv"},
        )
    figure.update_xaxes(title=AXES[axis])
    figure.update_yaxes(title="hypervolume on test", rangemode="tozero")
    return page_layout(figure, 380)


def fronts(contenders: Sequence[Contender], cost: str, quality: Objective) -> go.Figure:
    """Every study's front in the plane of ``cost`` and ``quality``, chosen on validation, drawn at test values."""
    figure, values, name = go.Figure(), [], quality.name
    for contender, color in zip(contenders, COLORS * 9, strict=False):
        for i, study in enumerate(contender.studies):
            rows = projected(study.front, cost, quality)
            values += rows[cost].tolist()
            figure.add_scatter(
                x=rows[cost].tolist(),
                y=[tested(r, [quality])[name] for r in rows.to_dict("records")],
                name=html.escape(contender.label),
                legendgroup=contender.label,
                showlegend=i == 0,
                mode="lines+markers",
                line={"color": color, "width": 1, "shape": "hv"},
                marker={"size": 6},
            )
    log_axis(figure, cost, values)
    figure.update_yaxes(title=html.escape(units.title(f"test_{name}")), tickformat=tick_format(name))
    return page_layout(figure, 380)


SCORES = ("contender", "studies", "hypervolume", "95 % interval", "trials", "epochs", "seconds")


def score_rows(contenders: Sequence[Contender]) -> list[list[str]]:
    rows = []
    for c in contenders:
        mean, low, high = mean_interval(c.final)
        bounds = "" if math.isinf(low) else f"{low:.4f} .. {high:.4f}"
        ends = [curve[-1] for curve in c.curves]
        trials = np.median([len(curve) for curve in c.curves])
        spent = [f"{np.median([e.epochs for e in ends]):.0f}", f"{np.median([e.elapsed_s for e in ends]):.1f}"]
        rows.append([c.label, str(len(c.studies)), f"{mean:.4f}", bounds, f"{trials:.0f}", *spent])
    return rows


def _attained_rows(contenders: Sequence[Contender], cost: str) -> list[list[str]]:
    name = contenders[0].studies[0].quality.name
    return [
        [units.quantity(cost, bound), *("" if math.isnan(v) else units.quantity(name, v) for v in values)]
        for bound, values in attained(contenders, cost)
    ]


def terminal(contenders: Sequence[Contender]) -> str:
    """Scores and verdicts as text."""
    table = Table(*SCORES)
    for row in score_rows(contenders):
        table.add_row(*row)
    console: Any = Console(file=io.StringIO(), markup=False, width=120)
    console.print(table)
    return console.file.getvalue() + "\n".join(verdicts(contenders))
