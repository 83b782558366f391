"""The front as a table for the terminal, the CSV files, and short texts of a recipe."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from harness.files.access import write_bytes_durably
from harness.report import units
from harness.report.fronts import majority_level, tied_members
from harness.report.study_data import StudyData

NARROW = 60  # characters; a narrower terminal wraps the table's lines
NOTES = {
    "~": "on the front only by a difference in latency within the noise of the measurement",
    "!": "no better than always saying the most frequent class",
}
SHORT = {
    "train.lr": "lr",
    "prune.ratio": "prune",
    "quant.bits": "bits",
    "distill.weight": "distill",
    "distill.temperature": "T",
    "clip.kind": "clip",
    "clip.threshold": "threshold",
    "student.width": "width",
}


def short_recipe(data: StudyData, row: pd.Series) -> str:
    """The searched leaves of a trial on one line."""
    return ", ".join(_leaves(data, row))


def _leaves(data: StudyData, row: pd.Series) -> list[str]:
    values = [(name, row.get(name)) for name in data.searched]
    return [f"{SHORT.get(name, name)} {units.plain(value)}" for name, value in values if not units.missing(value)]


def _parts(data: StudyData, row: pd.Series) -> list[str]:
    """The recipe of a trial; of a baseline its name and its student."""
    if not row["baseline"]:
        return _leaves(data, row)
    student = [name for name in data.searched if name.startswith("student.") and not units.missing(row.get(name))]
    return [str(row["baseline"]), *(f"{SHORT.get(name, name)} {units.plain(row[name])}" for name in student)]


def terminal_table(data: StudyData) -> str:
    """The front as text, the smallest file first. The last row is the widest student of the fp32 sweep, for scale.

    Lines fit the terminal's width (80 characters without a terminal, at least ``NARROW``).
    """
    ties, level = tied_members(data), majority_level(data, data.front)
    names = [n for q in data.qualities for n in (q.name, f"test_{q.name}")] + _costs(data)
    rows = [
        [f"{number}{'~' * (number in ties)}{'!' * (number in level)}", *_cells(names, row)]
        for number, row in data.front.iterrows()
    ]
    recipes = [_parts(data, row) for _, row in data.front.iterrows()]
    widest = data.widest
    if widest is not None:
        rows.append([str(widest["number"]), *_cells(names, widest)])
        recipes.append(["widest fp32", "student"])
    out = io.StringIO()
    console = Console(file=out, width=max(NARROW, Console().width), markup=False, highlight=False)
    heads = ["trial", *("test" if n == "test_accuracy" else units.head(n) for n in names)]
    used = sum(max(len(cell) for cell in column) + 2 for column in zip(heads, *rows, strict=True))
    table = Table(
        *heads, "recipe", title=f"front of {data.name}", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False
    )
    for column in table.columns[:-1]:
        column.justify, column.no_wrap = "right", True
    for row, parts in zip(rows, recipes, strict=True):
        if widest is not None and row is rows[-1]:
            table.add_section()
            table.add_row(*row, " ".join(parts))
            break
        table.add_row(*row, folded(parts, console.width - used - 2))
    console.print(table)
    for mark, note in NOTES.items():
        if ties if mark == "~" else level:
            console.print(f"{mark} {note}")
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def _costs(data: StudyData) -> list[str]:
    """Names of the cost columns: size, latency and every other cost that is an objective. With several qualities,
    whose columns need the room, only objectives."""
    objectives = [o.name for o in data.objectives if o.name in data.costs]
    return objectives if len(data.qualities) > 1 else [*dict.fromkeys(["size_bytes", "latency_ms", *objectives])]


def _cells(names: Sequence[str], row: pd.Series) -> list[str]:
    return [units.quantity(name, row[name]) for name in names]


def folded(parts: Sequence[str], width: int) -> str:
    """``parts`` with commas between them, wrapped to lines of ``width`` characters; a longer part gets its own line."""
    lines: list[str] = []
    for i, part in enumerate(parts):
        text = part + "," * (i < len(parts) - 1)
        if lines and len(lines[-1]) + 1 + len(text) <= width:
            lines[-1] += f" {text}"
        else:
            lines.append(text)
    return "\n".join(lines)


def write_csv(data: StudyData, folder: Path) -> None:
    """Write ``trials.csv`` and ``pareto.csv``; no cell or heading can run as a formula in a spreadsheet."""
    for name, rows in (("trials", data.trials), ("pareto", data.front)):
        safe = rows.drop(columns=["complete"]).map(_no_formula).rename(columns=_no_formula)
        write_bytes_durably(folder / f"{name}.csv", safe.to_csv(index=False).encode(), data.folder)


def _no_formula(value: Any) -> Any:
    """The value; a text that a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ")[:1] in _FORMULA else value


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
