"""The report's figures in plotly. Every text from a study is escaped, never used as markup."""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go

from harness.report import units
from harness.report.fronts import hypervolume, running_hypervolume
from harness.report.study_data import StudyData

# Each color has a contrast of at least 3 against the light and the dark card, but for MUTED, which is meant to recede.
MUTED, FRONT, SWEEP, TEACHER, NAMED = "#9aa5b1", "#c2410c", "#2f6fed", "#15803d", "#9d4edd"
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


def tick_format(quality: str) -> str:
    return ".1%" if "accuracy" in quality else ".3~g"


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
        return {"label": html.escape(name), "values": numbers.fillna(numbers.min()).tolist()}
    labels = sorted({units.plain(v) or "-" for v in column})
    codes = [labels.index(units.plain(v) or "-") for v in column]
    texts = [html.escape(label) for label in labels]
    return {"label": html.escape(name), "values": codes, "tickvals": list(range(len(labels))), "ticktext": texts}


def importance(data: StudyData) -> go.Figure:
    """Share of each parameter in the variance of each objective."""
    figure = go.Figure()
    names = sorted(
        {n for scores in data.importances.values() for n in scores},
        key=lambda n: sum(float(s.get(n, 0)) for s in data.importances.values()),
    )
    for (objective, scores), color in zip(data.importances.items(), (FRONT, SWEEP, TEACHER), strict=False):
        figure.add_bar(
            y=[html.escape(n) for n in names],
            x=[float(scores.get(n, 0)) for n in names],
            orientation="h",
            name=html.escape(units.title(objective)),
            marker={"color": color},
        )
    figure.update_xaxes(title="importance (PED-ANOVA)")
    page_layout(figure, 190 + 45 * max(1, len(names)))
    figure.update_layout(barmode="group", margin={"t": 75}, legend={"yref": "container", "y": 0.99, "yanchor": "top"})
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
        updatemenus=[{"buttons": buttons, "active": shown, "x": 0, "y": 1.2, "xanchor": "left"}] if buttons else [],
    )
    return figure
