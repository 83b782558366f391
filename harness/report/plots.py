"""The report's figures in plotly. Every text from a study is escaped, never used as markup."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from harness.report import units
from harness.report.fronts import hypervolume, majority_level, projected, running_hypervolume
from harness.report.study_data import StudyData
from harness.space.settings import Objective

MUTED, FRONT, SWEEP, TEACHER, NAMED = "#9aa5b1", "#c2410c", "#1d4ed8", "#15803d", "#7e22ce"
LEVEL = "#dc2626"
STEPS = (("fp32", "fp32"), ("pruned", "pruned"), ("quantized", "quantized, stored wide"), ("file", "the file"))


def page_layout(figure: go.Figure, height: int = 430) -> go.Figure:
    """Apply the layout that all figures share."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 70, "r": 20, "t": 20, "b": 55},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#5b6673"},
        legend={"orientation": "h", "y": 1.08, "x": 0},
        hoverlabel={"align": "left"},
        autosize=True,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#9aa5b1", "activecolor": "#5b6673"},
    )
    figure.update_xaxes(
        gridcolor="rgba(128,140,155,.22)", zeroline=False, ticks="outside", tickcolor="rgba(128,140,155,.5)"
    )
    figure.update_yaxes(gridcolor="rgba(128,140,155,.22)", zeroline=False, title_standoff=16, automargin=True)
    return figure


def _hover(data: StudyData, rows: pd.DataFrame) -> list[str]:
    """The measured values and the searched leaves of each row, escaped."""
    texts = []
    for number, row in rows.iterrows():
        names = [n for q in data.qualities for n in (q.name, f"test_{q.name}")]
        measured = [
            f"{units.title(n)}: {units.quantity(n, row[n])}" for n in [*names, *data.costs] if not units.missing(row[n])
        ]
        recipe = [f"{n} = {units.plain(row[n])}" for n in data.searched if not units.missing(row[n])]
        head = f"trial {number}" + (f" ({row['baseline']})" if row["baseline"] else "")
        texts.append("<br>".join(html.escape(t) for t in [head, *measured, *recipe]))
    return texts


def _points(data: StudyData, rows: pd.DataFrame, cost: str, quality: str, name: str, **style: object) -> go.Scatter:
    return go.Scatter(
        x=rows[cost].tolist(),
        y=rows[quality].tolist(),
        name=name,
        hovertext=_hover(data, rows),
        hoverinfo="text",
        **style,
    )


def tradeoff(data: StudyData, cost: str, quality: Objective) -> go.Figure:
    """A quality against a cost: all trials, the front, the fp32 width sweep and the teacher."""
    finished, score = data.finished, quality.name
    rest = finished[~finished["front"] & ~finished.index.isin([*data.sweep.index, *data.named.index])]
    figure = go.Figure(
        _points(
            data, rest, cost, score, "other trials", mode="markers", marker={"color": MUTED, "size": 7, "opacity": 0.55}
        )
    )
    line = projected(finished[finished["feasible"]], cost, quality)
    figure.add_scatter(
        x=line[cost].tolist(),
        y=line[score].tolist(),
        mode="lines",
        line={"color": FRONT, "shape": "hv", "width": 1.5},
        hoverinfo="skip",
        name="best of this plane",
    )
    sweep = data.sweep.sort_values(cost)
    figure.add_trace(
        _points(
            data,
            sweep,
            cost,
            score,
            data.sweep_name,
            mode="lines+markers",
            line={"dash": "dot", "color": SWEEP},
            marker={"symbol": "square", "size": 9, "color": SWEEP},
        )
    )
    figure.add_trace(
        _points(
            data,
            data.front,
            cost,
            score,
            "Pareto front",
            mode="markers",
            marker={"color": FRONT, "size": 11, "line": {"color": "white", "width": 1}},
        )
    )
    _add_marks(figure, data, cost, score)
    log_axis(figure, cost, [*finished[cost].dropna(), *([data.teacher[cost]] if cost in data.teacher else [])])
    figure.update_yaxes(title=html.escape(units.title(score)), range=_range(data, score), tickformat=tick_format(score))
    page_layout(figure, 480 + 20 * data.named["baseline"].nunique())
    figure.update_layout(legend={"y": -0.2, "yanchor": "top"})  # below: named recipes can make it long
    return figure


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
            mode="markers",
            name="teacher",
            marker={"symbol": "star", "size": 15, "color": TEACHER},
            hovertext=["teacher"],
            hoverinfo="text+x+y",
        )


def tick_format(quality: str) -> str:
    return ".1%" if "accuracy" in quality else ".3~g"


def _range(data: StudyData, quality: str) -> list[float]:
    """The y range: the whole front, sweep and named trials. Trials far from these may lie outside (a double click
    shows them)."""
    values = [*data.front[quality], *data.sweep[quality], *data.named[quality]]
    values = values or data.finished[quality].tolist()
    teacher = [data.teacher[quality]] if quality in data.teacher else []
    low, high = min(values), max([*values, *teacher])
    margin = max(0.25 * (high - low), 0.005)
    return [low - margin, min(high + margin, 1.005) if "accuracy" in quality else high + margin]


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


def volume(data: StudyData) -> go.Figure:
    """Hypervolume over the finished trials, with a line at the width sweep's hypervolume."""
    rows = data.finished[data.finished["feasible"]].sort_values("number")
    values = running_hypervolume(rows, data)
    figure = go.Figure(
        go.Scatter(
            x=list(range(1, len(values) + 1)),
            y=values,
            mode="lines",
            name="all trials so far",
            line={"shape": "hv", "color": FRONT, "width": 2},
        )
    )
    if not data.sweep.empty:
        sweep_volume = hypervolume(data.sweep, data)
        figure.add_hline(
            y=sweep_volume,
            line={"dash": "dot", "color": SWEEP},
            annotation_text=f"{data.sweep_name} alone",
            annotation_position="bottom right",
        )
    figure.update_xaxes(title="finished trials")
    figure.update_yaxes(title="hypervolume", rangemode="tozero")
    return page_layout(figure, 340)


def parallel(data: StudyData) -> go.Figure:
    """Parallel coordinates: one line per trial through the searched leaves, colored by quality.

    Drag along an axis to filter; drag an axis title to move the axis.
    """
    rows, quality = data.finished, data.quality.name
    axes = [_axis(rows[name], name) for name in data.searched]
    ends = [
        {"label": html.escape(units.title(n)), "values": rows[n].tolist()}
        for n in [*data.costs, *(q.name for q in data.qualities)]
    ]
    figure = go.Figure(
        go.Parcoords(
            line={
                "color": rows[quality].tolist(),
                "colorscale": "Viridis",
                "reversescale": data.quality.direction == "minimize",
                "showscale": True,
                "colorbar": {"title": {"text": html.escape(quality)}, "tickformat": tick_format(quality)},
            },
            dimensions=[*axes, *ends],
        )
    )
    page_layout(figure, 430)
    figure.update_layout(margin={"l": 90, "r": 60, "t": 60, "b": 30})
    return figure


def _axis(column: pd.Series, name: str) -> dict[str, object]:
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().sum() == column.notna().sum() and numbers.nunique() > 1:
        return {"label": name, "values": numbers.fillna(numbers.min()).tolist()}
    labels = sorted({units.plain(v) or "-" for v in column})
    codes = [labels.index(units.plain(v) or "-") for v in column]
    return {"label": name, "values": codes, "tickvals": list(range(len(labels))), "ticktext": labels}


def importance(data: StudyData) -> go.Figure:
    """Share of each parameter in the variance of each objective."""
    figure = go.Figure()
    names = sorted(
        {n for scores in data.importances.values() for n in scores},
        key=lambda n: sum(float(s.get(n, 0)) for s in data.importances.values()),
    )
    for (objective, scores), color in zip(data.importances.items(), (FRONT, SWEEP, TEACHER), strict=False):
        figure.add_bar(
            y=names,
            x=[float(scores.get(n, 0)) for n in names],
            orientation="h",
            name=html.escape(units.title(objective)),
            marker={"color": color},
        )
    figure.update_xaxes(title="importance (PED-ANOVA)")
    page_layout(figure, 150 + 45 * max(1, len(names)))
    figure.update_layout(barmode="group")
    return figure


def stepped(data: StudyData) -> list[int]:
    """Points of the front whose bytes after each compression step are known."""
    return [n for n in data.front["number"].tolist() if all(k in data.records[n].waterfall for k, _ in STEPS)]


def waterfall(data: StudyData) -> go.Figure:
    """Bytes after each compression step, for one point of the front at a time; first the one that shrank most."""
    figure, buttons = go.Figure(), []
    members = stepped(data)
    shrunk = [data.records[n].waterfall[STEPS[0][0]] / data.records[n].waterfall[STEPS[-1][0]] for n in members]
    shown = shrunk.index(max(shrunk)) if shrunk else 0
    for i, number in enumerate(members):
        sizes = [data.records[number].waterfall[k] for k, _ in STEPS]
        figure.add_bar(
            x=[label for _, label in STEPS],
            y=sizes,
            visible=i == shown,
            text=[units.size(s) for s in sizes],
            textposition="outside",
            cliponaxis=False,
            marker={"color": [MUTED, SWEEP, TEACHER, FRONT]},
            name=f"trial {number}",
            hoverinfo="text",
        )
        buttons.append(
            {
                "label": f"trial {number}",
                "method": "update",
                "args": [{"visible": [j == i for j in range(len(members))]}],
            }
        )
    figure.update_yaxes(title="bytes")
    page_layout(figure, 380)
    figure.update_layout(
        showlegend=False,
        margin={"t": 60},
        updatemenus=[{"buttons": buttons, "active": shown, "x": 1, "y": 1.18, "xanchor": "right"}] if buttons else [],
    )
    return figure
