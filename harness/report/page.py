"""The report: one HTML file that opens offline, two CSV files and the named recipes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import plotly.graph_objects as go

from harness.files.access import check_way, write_bytes_durably
from harness.records import read_json
from harness.report import plots, units
from harness.report.audits import COLUMNS as AUDIT_COLUMNS
from harness.report.audits import audit_rows, needs, slower_integers
from harness.report.confirmed import columns as confirmed_columns
from harness.report.confirmed import confirmed_rows, note
from harness.report.curves import learning_curves
from harness.report.decision import card
from harness.report.embed import rendered, script_json
from harness.report.fronts import accuracy_interval, comparison, majority_level, reference_point, tied_members
from harness.report.limits import limit_data, limit_fields
from harness.report.picks import best_points, front_recipe, recipe_yaml
from harness.report.study_data import BROKEN, StudyData
from harness.report.tables import write_csv
from harness.report.tradeoffs import hover_texts, tradeoff, tradeoffs
from harness.report.training import still_falling, weak_teacher
from harness.report.trial_table import plain_table, trial_table
from harness.stats.pareto import LOGGED
from harness.verify.confirmation import Confirmation

PARITY_DISAGREEMENTS = 2  # samples; a warning above it. Float rounding may flip the class of a near-tied sample
ENDED = {"stopped": "stopped early", "failed": "failed"}  # a record's status, in words


def write_report(data: StudyData) -> Path:
    """Write ``report/`` and ``best/`` of the study; returns the page's path."""
    folder = data.folder / "report"
    write_csv(data, folder)
    points = best_points(data)
    _write_recipes(data, points)
    page = folder / "index.html"
    write_bytes_durably(page, render(data, points).encode(), data.folder)
    return page


def _write_recipes(data: StudyData, points: Mapping[str, int]) -> None:
    """Write the recipe of every front point, and those of the named points under their names; remove the recipes of
    points that have left the front."""
    front = {front_recipe(data, int(number)): int(number) for number in data.front["number"]}
    named = {data.folder / "best" / f"{name}.yaml": number for name, number in points.items()}
    for path, number in {**named, **front}.items():
        write_bytes_durably(path, recipe_yaml(data, number).encode(), data.folder)
    for path in (data.folder / "best").glob("[0-9]" * 5 + ".yaml"):
        if path not in front:
            check_way(path, data.folder)  # not through a link to a folder elsewhere
            path.unlink()


def render(data: StudyData, points: dict[str, int]) -> str:
    """The page's HTML; the same study gives the same bytes."""
    figures = page_figures(data, points.get("knee"))
    return rendered(
        "page.html.j2",
        figures,
        name=data.name,
        card=card(data, points),
        limits=script_json(limit_data(data)),
        fields=limit_fields(data) if points else [],
        facts=facts(data),
        summary=summary(data),
        warnings=warnings(data),
        hover=hover_texts(data),
        reference=", ".join(units.quantity(name, value) for name, value in reference_point(data).items()),
        tradeoffs={name: heading for name, (heading, _) in tradeoffs(data).items()},
        curve=str(figures["curves"].layout.yaxis.title.text) if "curves" in figures else "",
        scale=scale(data),
        axes=len(data.searched) + len(data.costs) + len(data.qualities),
        audits=plain_table(AUDIT_COLUMNS, audit_rows(data), "audits"),
        confirmed=_confirmed(data),
        trials=trial_table(data),
    )


def scale(data: StudyData) -> str:
    """The axes of the hypervolume, in words."""
    axes = [f"log {units.head(o.name)}" if o.name in LOGGED else o.name for o in data.objectives]
    return ", ".join(axes)


def _confirmed(data: StudyData) -> dict[str, Any]:
    content = read_json(data.folder / "confirm.json", data.folder)
    if not content.get("points"):
        return {"rows": []}
    result = cast(Confirmation, content)  # another file under this name ends as a message of `reading`
    return plain_table(confirmed_columns(result), confirmed_rows(result), "confirmed", note=note(result))


def page_figures(data: StudyData, recommended: int | None) -> dict[str, go.Figure]:
    """Figures by id, in the order in which the page draws them."""
    figures: dict[str, go.Figure] = {}
    if not data.finished.empty:
        figures = {name: tradeoff(data, *axes, recommended) for name, (_, axes) in tradeoffs(data).items()}
    curves = learning_curves(data, recommended)
    if curves is not None:
        figures["curves"] = curves[1]
    if not data.finished.empty:
        figures |= {} if data.front.empty else {"volume": plots.volume(data)}
        figures["parallel"] = plots.parallel(data)
        if plots.stepped(data):
            figures["waterfall"] = plots.waterfall(data)
    if any(data.importances.values()):
        figures["importance"] = plots.importance(data)
    return figures


def facts(data: StudyData) -> list[tuple[str, str]]:
    """The conditions under which the numbers were measured: pairs of name and value."""
    machine = data.environment
    counts = data.trials["status"].value_counts()
    ended = ", ".join(f"{counts[s]} {words}" for s, words in ENDED.items() if counts.get(s))
    latency = next(
        (r.measurements["latency_ms"].conditions for r in data.records.values() if "latency_ms" in r.measurements), {}
    )
    conditions = [
        ("Trials", f"{len(data.finished)} finished, {ended + ', ' if ended else ''}{len(data.front)} on the front"),
        ("Status", str(data.study.get("status", "unknown"))),
        (
            "Machine",
            f"{machine.get('cpu_model', '?')}, {machine.get('cores', '?')} cores, {', '.join(machine.get('isa', []))}",
        ),
        (
            "Runtime",
            f"{latency.get('runtime', '?')} {machine.get('onnxruntime', '')}, batch {latency.get('batch_size', '?')}, "
            f"{latency.get('threads', '?')} thread(s){_runtime_options(latency)}",
        ),
        ("Command", str(data.study.get("command", ""))),
        ("Wall time", f"{data.study['wall_s']:.0f} s" if "wall_s" in data.study else "?"),
    ]
    return conditions


def _runtime_options(latency: Mapping[str, Any]) -> str:
    """The options that the runtime needs on this machine for exact integer arithmetic, as text."""
    return "".join(f", {name}={value}" for name, value in latency.get("options", {}).items())


def summary(data: StudyData) -> list[str]:
    """The result of the search in sentences; an empty front also gets one."""
    if data.front.empty:
        return ["No trial finished within the constraints: there is no front yet."]
    sentences = [_shrinking(data)] if data.widest is not None else []
    volumes = comparison(data)
    against = f"hypervolume {volumes['searched']:.3f} against {volumes['sweep']:.3f}"
    if volumes["beats"] is True:
        sentences.append(f"The searched trials beat the plain {data.sweep_name}: {against}.")
    elif volumes["beats"] is False:
        sentences.append(f"This front has bought nothing over the plain {data.sweep_name}: {against}.")
    sentences += slower_integers(data)
    sentences.append(
        "Points are chosen on the validation split, so their validation values are optimistic. The test column is "
        "measured once, at the end."
    )
    return sentences


def _shrinking(data: StudyData) -> str:
    widest, quality = data.widest, data.quality
    name, sign = quality.name, 1 if quality.direction == "maximize" else -1
    near = data.front if widest is None else data.front[sign * (data.front[name] - widest[name]) >= -0.01]
    if widest is None or near.empty:
        within = "1 accuracy point" if name == "accuracy" else f"0.01 {name}"
        return f"No point of the front is within {within} of the widest fp32 student."
    best = near.sort_values("size_bytes").iloc[0]
    lost = sign * (widest[name] - best[name])
    ratio = widest["size_bytes"] / best["size_bytes"]
    worse, as_good = ("lower", "as high") if sign > 0 else ("higher", "as low")
    by = "accuracy" if name == "accuracy" else name
    change = f"{by} {units.difference(name, lost)} {worse}" if lost > 0 else f"{by} {as_good} or better"
    return (
        f"Trial {best['number']} has 1/{ratio:.1f} of the widest fp32 student's file "
        f"({units.size(best['size_bytes'])} against {units.size(widest['size_bytes'])}), {change} on validation."
    )


def _unstable(data: StudyData, number: int) -> bool:
    return data.records[number].measurements["latency_ms"].conditions.get("verdict") == "unstable"


def warnings(data: StudyData) -> list[str]:
    """What limits the trust in a number on this page: one sentence each."""
    sentences = [f"{wrong}; left out" for wrong in (*data.damaged, *(f"trials/{n}: {BROKEN}" for n in data.unreadable))]
    for number in data.front["number"].tolist():
        parity = data.records[number].diagnostics.get("parity", {})
        if parity.get("disagreements", 0) > PARITY_DISAGREEMENTS:
            sentences.append(
                f"trial {number}: file and training disagree on {parity['disagreements']:.0f} "
                f"of {parity['n']:.0f} samples"
            )
    unstable = [str(n) for n in data.front["number"].tolist() if _unstable(data, n)]
    if unstable:
        sentences.append(f"the latency measurement was unstable for these trials: {', '.join(unstable)}")
    sentences += needs(data)
    ties = tied_members(data)
    if ties:
        pairs = ", ".join(f"{a} (with {b})" for a, b in ties.items())
        sentences.append(f"on the front only by a latency difference within the noise: {pairs}")
    level = majority_level(data, data.front)
    if level:
        sentences.append(
            f"on the front at the level of the most frequent class (accuracy {units.share(data.chance['accuracy'])}), "
            f"not shown to have learned anything: {', '.join(map(str, level))}"
        )
    sentences += [*weak_teacher(data), *still_falling(data)]
    if data.widest is not None and not data.front.empty and "accuracy" in [q.name for q in data.qualities]:
        n = data.accuracy_n(int(data.widest["number"]))
        if n:
            low, high = accuracy_interval(float(data.front["accuracy"].max()), float(n))
            sentences.append(
                f"validation has {n} samples: the 95 % interval of the best accuracy is "
                f"{units.share(low)} .. {units.share(high)}"
            )
    return sentences
