"""The figures of a quality against a cost. The page links them: a trial is marked in all of them at once.

The page finds a trial's points by ``customdata``, which holds the trial's number in every trace of trials. It also
adds their hover texts, which all these figures share.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from harness.report import units
from harness.report.embed import figure_id
from harness.report.fronts import accuracy_interval, majority_level, projected
from harness.report.plots import FRONT, LEVEL, MUTED, NAMED, SWEEP, TEACHER, page_layout, tick_format
from harness.report.study_data import StudyData
from harness.space.settings import Objective

WINDOW = 0.1  # of accuracy below the best of the front that a figure shows at first
LABELED = 6  # points of the width sweep; in a longer sweep only the widest has its width beside it


def tradeoffs(data: StudyData) -> dict[str, tuple[str, tuple[str, Objective]]]:
    """Every figure of a quality against a cost: id -> (heading, (cost, quality))."""
    return {
        figure_id("tradeoff", cost, q.name): (f"{_capital(q.name)} against {units.head(cost)}", (cost, q))
        for q in data.qualities
        for cost in data.costs
    }


def _capital(name: str) -> str:
    return "Accuracy" if name == "accuracy" else name


def tradeoff(data: StudyData, cost: str, quality: Objective, recommended: int | None = None) -> go.Figure:
    """A quality against a cost: all trials, the front, the fp32 width sweep and the teacher."""
    finished, score = data.finished, quality.name
    rest = finished[~finished["front"] & ~finished.index.isin([*data.sweep.index, *data.named.index])]
    marker = {"color": MUTED, "size": 7, "opacity": 0.55}
    figure = go.Figure(_points(data, rest, cost, score, "other trials", mode="markers", marker=marker))
    line = projected(finished[finished["feasible"]], cost, quality)
    figure.add_scatter(
        x=line[cost].tolist(),
        y=line[score].tolist(),
        mode="lines",
        line={"color": FRONT, "shape": "hv", "width": 1.5},
        hoverinfo="skip",
        name="best of this plane",
    )
    figure.add_trace(_sweep(data, cost, score))
    marker = {"color": FRONT, "size": 11, "line": {"color": "white", "width": 1}}
    bars = _bars(data, cost, score)
    figure.add_trace(_points(data, data.front, cost, score, "Pareto front", mode="markers", marker=marker, **bars))
    _add_marks(figure, data, cost, score)
    if recommended is not None:
        _add_recommended(figure, data.front.loc[[recommended]], cost, score)
    log_axis(figure, cost, [*finished[cost].dropna(), *([data.teacher[cost]] if cost in data.teacher else [])])
    shown = _range(data, quality)
    figure.update_yaxes(title=html.escape(units.title(score)), range=shown, tickformat=tick_format(score))
    _add_outside(figure, int((data.front[score] < shown[0]).sum()))
    page_layout(figure, 480 + 20 * data.named["baseline"].nunique())
    figure.update_layout(legend={"y": -0.2, "yanchor": "top"})  # below: named recipes can make it long
    return figure


def _points(data: StudyData, rows: pd.DataFrame, cost: str, quality: str, name: str, **style: object) -> go.Scatter:
    return go.Scatter(
        x=rows[cost].tolist(),
        y=rows[quality].tolist(),
        name=name,
        customdata=rows["number"].tolist(),
        hoverinfo="text",
        **style,
    )


def hover_texts(data: StudyData) -> dict[int, str]:
    """Trial -> its measured values, searched leaves and file, escaped: what the page shows beside any of its points."""
    texts = {}
    for number, row in data.finished.iterrows():
        names = [n for q in data.qualities for n in (q.name, f"test_{q.name}")]
        measured = [
            f"{units.title(n)}: {units.quantity(n, row[n])}" for n in [*names, *data.costs] if not units.missing(row[n])
        ]
        recipe = [f"{n} = {units.plain(row[n])}" for n in data.searched if not units.missing(row[n])]
        head = f"trial {number}" + (f" ({row['baseline']})" if row["baseline"] else "")
        texts[int(number)] = "<br>".join(html.escape(t) for t in [head, *measured, *recipe, row["model"]])
    return texts


def _bars(data: StudyData, cost: str, quality: str) -> dict[str, dict[str, object]]:
    """Error bars of the front: the 95 % interval of an accuracy counted on n samples, and of the median latency."""
    front, bars = data.front, {}
    style = {"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": "rgba(194,65,12,.45)"}
    if quality == "accuracy":
        pairs = [_interval(data, number) for number in front["number"].tolist()]
        bars["error_y"] = {**style, "array": [above for _, above in pairs], "arrayminus": [below for below, _ in pairs]}
    if cost == "latency_ms" and front["latency_low"].notna().any():
        above, below = front["latency_high"] - front[cost], front[cost] - front["latency_low"]
        bars["error_x"] = {**style, "array": above.fillna(0).tolist(), "arrayminus": below.fillna(0).tolist()}
    return bars


def _interval(data: StudyData, number: int) -> tuple[float, float]:
    """How far the interval of a trial's validation accuracy reaches below it and above; 0 if n is not known."""
    accuracy, n = float(data.front.loc[number, "accuracy"]), data.accuracy_n(number)
    if not n or units.missing(accuracy):
        return 0.0, 0.0
    low, high = accuracy_interval(accuracy, float(n))
    return max(accuracy - low, 0.0), max(high - accuracy, 0.0)


def _sweep(data: StudyData, cost: str, score: str) -> go.Scatter:
    """The plain fp32 students, labeled with their widths."""
    sweep = data.sweep.sort_values(cost)
    widths = [row.get("student.width") for _, row in sweep.iterrows()]
    texts = ["" if units.missing(w) or len(sweep) > LABELED else html.escape(units.plain(w)) for w in widths]
    if texts:
        texts[-1] = f"fp32, width {html.escape(units.plain(widths[-1]))}" if not units.missing(widths[-1]) else "fp32"
    style = {"line": {"dash": "dot", "color": SWEEP}, "marker": {"symbol": "square", "size": 9, "color": SWEEP}}
    trace = _points(data, sweep, cost, score, data.sweep_name, mode="lines+markers+text", text=texts, **style)
    return trace.update(textposition=["bottom center"] * (len(texts) - 1) + ["bottom left"] * bool(texts))


def _add_recommended(figure: go.Figure, row: pd.DataFrame, cost: str, score: str) -> None:
    figure.add_scatter(
        x=row[cost].tolist(),
        y=row[score].tolist(),
        mode="markers",
        marker={"symbol": "circle-open", "size": 19, "color": FRONT, "line": {"width": 2}},
        name="recommended",
        hoverinfo="skip",
    )
    x, y = float(row[cost].iloc[0]), float(row[score].iloc[0])
    if x > 0 and y == y:  # the axis is logarithmic, and so is the place of a text
        figure.add_annotation(x=math.log10(x), y=y, text="<b>recommended</b>", ax=70, ay=95, arrowcolor=FRONT)


def _add_marks(figure: go.Figure, data: StudyData, cost: str, score: str) -> None:
    """Named recipes, front points at the level of the most frequent class, and the teacher."""
    for name, rows in data.named.groupby("baseline", sort=False):
        marker = {"symbol": "diamond", "size": 12, "color": NAMED, "line": {"color": "white", "width": 1}}
        figure.add_trace(_points(data, rows, cost, score, html.escape(str(name)), mode="markers", marker=marker))
    low = data.front.loc[majority_level(data, data.front)]
    if not low.empty:
        marker = {"symbol": "x-thin", "size": 13, "line": {"color": LEVEL, "width": 2}}
        figure.add_trace(_points(data, low, cost, score, "as the most frequent class", mode="markers", marker=marker))
    if cost in data.teacher and score in data.teacher:
        figure.add_scatter(
            x=[data.teacher[cost]],
            y=[data.teacher[score]],
            mode="markers+text",
            text=["teacher"],
            textposition="top left",
            name="teacher",
            marker={"symbol": "star", "size": 15, "color": TEACHER},
            hovertext=["teacher"],
            hoverinfo="text+x+y",
        )


def _range(data: StudyData, quality: Objective) -> list[float]:
    """The y range: the front, sweep and named trials; if accuracy is an objective, only down to ``WINDOW`` below the
    best of the front. Other trials may lie outside (a double click shows them)."""
    name = quality.name
    values = [*data.front[name], *data.sweep[name], *data.named[name]]
    values = values or data.finished[name].tolist()
    teacher = [data.teacher[name]] if name in data.teacher else []
    low, high = min(values), max([*values, *teacher])
    if name == "accuracy" and quality in data.objectives and not data.front.empty:
        low = max(low, float(data.front[name].max()) - WINDOW)
    margin = max(0.25 * (high - low), 0.005)
    return [low - margin, min(high + margin, 1.005) if "accuracy" in name else high + margin]


def _add_outside(figure: go.Figure, below: int) -> None:
    """Say how many points of the front are below the range."""
    if below:
        text = f"below: {below} of the front<br>(double click)"
        place = {"x": 1, "y": 0, "xref": "paper", "yref": "paper", "yanchor": "bottom", "align": "right"}
        figure.add_annotation(text=text, showarrow=False, **place)


def log_axis(figure: go.Figure, cost: str, values: Sequence[float]) -> None:
    ticks = units.log_ticks(min(values) * 0.8, max(values) * 1.25) if values and min(values) > 0 else []
    figure.update_xaxes(
        type="log",
        title=html.escape(units.title(cost)),
        tickvals=ticks,
        ticktext=[_round(units.quantity(cost, t)) for t in ticks],
    )


def _round(text: str) -> str:
    """``5.00 kB`` becomes ``5 kB``: tick values are round numbers."""
    return re.sub(r"\.0+(?= )", "", text)
