"""The front as a table for the terminal, the CSV files, and short texts of a recipe."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from harness.report import units
from harness.report.data import StudyData
from harness.report.fronts import tied_members

SHORT = {
    "train.lr": "lr",
    "prune.ratio": "prune",
    "quant.bits": "bits",
    "distill.weight": "distil",
    "distill.temperature": "T",
    "clip.kind": "clip",
    "clip.threshold": "threshold",
    "student.width": "width",
}


def short_recipe(data: StudyData, row: pd.Series) -> str:
    """The searched leaves of a trial on one line."""
    parts = []
    for name in data.searched:
        value = row.get(name)
        if not units.missing(value):
            parts.append(f"{SHORT.get(name, name)} {units.plain(value)}")
    return ", ".join(parts)


def terminal_table(data: StudyData) -> str:
    """The front, the smallest file first, with the plain width sweep's widest student for scale."""
    ties = tied_members(data)
    table = Table("trial", "accuracy", "test", "size", "latency", "recipe", title=f"front of {data.name}")
    for column in table.columns[:5]:
        column.justify, column.no_wrap = "right", True
    for number, row in data.front.iterrows():
        mark = "~" if number in ties else ""
        table.add_row(
            f"{number}{mark}",
            units.share(row["accuracy"]),
            units.share(row["test_accuracy"]),
            units.size(row["size_bytes"]),
            units.time(row["latency_ms"]),
            row["baseline"] or short_recipe(data, row),
        )
    widest = data.widest
    if widest is not None:
        table.add_section()
        table.add_row(
            str(widest["number"]),
            units.share(widest["accuracy"]),
            units.share(widest["test_accuracy"]),
            units.size(widest["size_bytes"]),
            units.time(widest["latency_ms"]),
            "widest fp32 student",
        )
    out = io.StringIO()
    console = Console(file=out, width=max(100, Console().width), markup=False, highlight=False)
    console.print(table)
    if ties:
        console.print("~ on the front only by a difference in latency within the noise of the measurement")
    return out.getvalue().rstrip()


def write_csv(data: StudyData, folder: Path) -> None:
    """``trials.csv`` and ``pareto.csv``, made safe for spreadsheets."""
    for name, rows in (("trials", data.trials), ("pareto", data.front)):
        safe = rows.drop(columns=["complete"]).map(_no_formula)
        safe.to_csv(folder / f"{name}.csv", index=False)


def _no_formula(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
