"""The confirmed front beside the values that the search reported: one row per point."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console
from rich.table import Table

from harness.report import units
from harness.verify.confirmation import Confirmation, Point

COLUMNS = (
    "trial", "on the front", "probability", "validation", "search said", "test", "test interval", "size", "latency",
    "+-", "search's latency",
)  # fmt: skip


TERMINAL = ("trial", "on the front", "validation", "search said", "test", "size", "latency")


def columns(result: Confirmation) -> list[str]:
    """``COLUMNS``, and three columns for each metric of the task that is an objective."""
    points = result.get("points", [])
    metrics = points[0].get("metrics", {}) if points else {}
    return [*COLUMNS, *(head for name in metrics for head in (name, f"search's {name}", f"test {name}"))]


def confirmed_rows(result: Confirmation) -> list[list[str]]:
    """One row of :func:`columns` for every confirmed point, sure members first, small files first."""
    order = {"sure": 0, "possible": 1, "no": 2}
    points = sorted(result.get("points", []), key=lambda p: (order[p["member"]], p["size_bytes"], p["trial"]))
    return [_row(point) for point in points]


def _row(point: Point) -> list[str]:
    low, high = point["test_interval"]
    fast, slow = point["latency_interval_ms"]
    promised = point["promised"]
    unstable = "" if point["latency_verdict"] == "ok" else f" ({point['latency_verdict']})"
    return [
        str(point["trial"]),
        point["member"],
        f"{point['probability']:.2f}",
        units.share(point["validation_accuracy"]),
        units.share(promised["accuracy"]),
        units.share(point["test_accuracy"]),
        f"{units.share(low)} .. {units.share(high)}",
        units.size(point["size_bytes"]),
        units.time(point["latency_ms"]) + unstable,
        f"{(slow - fast) / 2 / point['latency_ms']:.1%}",
        units.time(promised["latency_ms"]),
        *(
            units.score(value)
            for name, splits in point.get("metrics", {}).items()
            for value in (splits["validation"], promised[name], splits["test"])
        ),
    ]


def terminal_table(result: Confirmation) -> str:
    """The confirmed points for the terminal: only the columns that fit into 80 characters. The page has all columns."""
    names = columns(result)
    has_metrics = len(names) > len(COLUMNS)  # metrics of the task take the room of the column "search said"
    wanted = [name for name in TERMINAL if not (has_metrics and name == "search said")]
    shown = [i for i, n in enumerate(names) if n in wanted or (i >= len(COLUMNS) and not n.startswith("search's "))]
    table = Table(*(names[i] for i in shown), title="confirmed", box=box.SIMPLE_HEAD, collapse_padding=True)
    for column in table.columns:
        column.overflow = "fold"
    for row in confirmed_rows(result):
        table.add_row(*(row[i] for i in shown))
    out = io.StringIO()
    Console(file=out, width=max(80, Console().width), markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines()) + "\n" + note(result)


def note(result: Confirmation) -> str:
    """The legend below the table: what the columns mean."""
    return (
        f"validation, test: means of {result['seeds']} new trainings (n = {result['test_n']:.0f} each on test); the "
        "interval contains the mean of another such confirmation in 95 of 100 cases. sure: by validation, on the "
        "front in 95 of 100 draws; possible: in 5 of 100. Membership does not use test values."
    )
