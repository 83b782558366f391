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
import plotly.io
import plotly.offline
from jinja2 import Environment, PackageLoader
from rich.console import Console
from rich.table import Table

from harness.files.access import write_bytes_durably
from harness.report import units
from harness.report.compare import Contender, at, attained, tested, verdicts
from harness.report.fronts import projected
from harness.report.page import figure_id, scale
from harness.report.plots import log_axis, page_layout, tick_format
from harness.space.settings import Objective
from harness.stats.intervals import mean_interval

COLORS = ("#c2410c", "#1d4ed8", "#15803d", "#7c3aed", "#0e7490", "#be185d", "#a16207", "#475569")
AXES = {"elapsed_s": "seconds since the first proposal", "epochs": "epochs trained, all trials together"}
GRID = 200


def write_comparison(contenders: Sequence[Contender], path: Path) -> Path:
    """Write the comparison page to ``path``."""
    environment = Environment(
        loader=PackageLoader("harness.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    first = contenders[0].studies[0]
    drawn = {f"over_{axis}": over(contenders, axis) for axis in AXES}
    figures = {name: _html(name, figure) for name, figure in drawn.items()}
    planes = [(cost, quality) for quality in first.qualities for cost in first.costs]
    page = environment.get_template("compare.html.j2").render(
        labels=[c.label for c in contenders],
        verdicts=verdicts(contenders),
        figures=figures,
        fronts=[
            (f"{q.name} and {units.head(c)}", _html(figure_id("front", c, q.name), fronts(contenders, c, q)))
            for c, q in planes
        ],
        scale=scale(first),
        quality=first.quality.name,
        scores={"columns": SCORES, "rows": score_rows(contenders)},
        attained=[(units.head(c), _attained_rows(contenders, c)) for c in first.costs],
        plotly_js=plotly.offline.get_plotlyjs(),
    )
    write_bytes_durably(path, page.encode())
    return path


def _html(name: str, figure: go.Figure) -> str:
    return plotly.io.to_html(
        figure,
        include_plotlyjs=False,
        full_html=False,
        div_id=name,
        default_width="100%",
        config={"displaylogo": False, "responsive": True},
    )


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
