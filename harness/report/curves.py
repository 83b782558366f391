"""Learning curves: the front's trials against those that were stopped early.

A record holds the validation accuracy at the rungs of a stop rule. Without a stop rule there are no rungs; then the
training loss of each epoch is drawn, from ``history.csv``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from harness.records import TrialRecord, trial_folder
from harness.report import units
from harness.report.plots import FRONT, MUTED, page_layout
from harness.report.study_data import StudyData
from harness.report.training import losses
from harness.stats.spaced import evenly

POINTS = 20  # of a curve; a longer one is thinned
FRONT_CURVES, STOPPED_CURVES = 40, 60  # at most; of more, evenly spaced ones are drawn
Curve = list[tuple[int, float]]  # (epoch, value)
ACCURACY, LOSS = "Accuracy (validation)", "Training loss"


def learning_curves(data: StudyData, recommended: int | None) -> tuple[str, go.Figure] | None:
    """What is drawn (``ACCURACY`` or ``LOSS``) and the figure; None if no curve of the front is known."""
    front = evenly(data.front["number"].tolist(), FRONT_CURVES)
    if recommended is not None and recommended not in front:
        front.append(recommended)
    stopped = evenly(data.trials.index[data.trials["status"] == "stopped"].tolist(), STOPPED_CURVES)
    for kind, read in _READERS.items():
        groups = [_curves(data, group, read) for group in (stopped, front)]
        if groups[1]:
            return kind, _figure(kind, groups[0], groups[1], recommended)
    return None


def _curves(data: StudyData, numbers: Sequence[int], read: Callable[[StudyData, int], Curve]) -> dict[int, Curve]:
    found = {number: read(data, number) for number in numbers}
    return {number: evenly(curve, POINTS) for number, curve in found.items() if len(curve) > 1}


def _accuracies(data: StudyData, number: int) -> Curve:
    """Accuracy at the rungs and, of a trial that finished, at the end."""
    record = data.records[number]
    rungs: Any = record.diagnostics.get("rungs")
    if not isinstance(rungs, dict) or not rungs:
        return []
    final = record.value("accuracy") if record.status == "ok" else None
    last = {} if final is None else {_epochs(record): final}
    return sorted({**{int(epoch): float(value) for epoch, value in rungs.items()}, **last}.items())


def _epochs(record: TrialRecord) -> int:
    return int(record.recipe["train"]["epochs"])


def _losses(data: StudyData, number: int) -> Curve:
    return list(enumerate(losses(trial_folder(data.folder, number) / "history.csv", data.folder), 1))


_READERS = {ACCURACY: _accuracies, LOSS: _losses}


def _figure(kind: str, stopped: dict[int, Curve], front: dict[int, Curve], recommended: int | None) -> go.Figure:
    figure = go.Figure()
    best = {n: c for n, c in front.items() if n == recommended}
    others = {n: c for n, c in front.items() if n != recommended}
    for name, curves, color, width in (
        ("stopped early", stopped, MUTED, 1.0),
        ("Pareto front", others, FRONT, 1.2),
        ("recommended", best, FRONT, 3.5),
    ):
        if curves:
            figure.add_trace(_trace(kind, name, curves).update(line={"color": color, "width": width}))
    figure.update_traces(selector={"name": "recommended"}, opacity=1)
    figure.update_xaxes(title="epoch", rangemode="tozero")
    figure.update_yaxes(title=kind)
    if kind == ACCURACY:
        figure.update_yaxes(tickformat=".0%")
    else:
        drawn = [v for curve in [*stopped.values(), *front.values()] for _, v in curve if v > 0]
        ticks = units.log_ticks(min(drawn), max(drawn)) if drawn else []
        figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    return page_layout(figure, 400)


def _trace(kind: str, name: str, curves: dict[int, Curve]) -> go.Scatter:
    """All curves of a group as one line with gaps."""
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for number, curve in curves.items():
        x += [*(epoch for epoch, _ in curve), None]
        y += [*(float(f"{value:.4g}") for _, value in curve), None]
        numbers += [*(number for _ in curve), None]
    shown = "%{y:.2%}" if kind == ACCURACY else "%{y:.4g}"
    return go.Scatter(
        x=x,
        y=y,
        customdata=numbers,
        name=name,
        mode="lines",
        opacity=0.6,
        connectgaps=False,
        hovertemplate=f"trial %{{customdata}}<br>{kind}: {shown}<br>epoch %{{x}}<extra></extra>",
    )
