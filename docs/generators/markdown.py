"""Small parts of Markdown, and docstrings as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

GENERATED = "<!-- Written by docs/generate.py from the code. Change the code, then run it again. -->"
_FIELD = re.compile(r"^ {0,3}([\w, ]*?\w) {2,}(\S.*)$")
_SECTION = re.compile(r"^(Args|Returns|Raises):$")
_ENTRY = re.compile(r"^ {4}([\w, ]+?): (.*)$")


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(map(cell, row))} |" for row in rows]


def inline(text: str) -> str:
    """reStructuredText in a docstring's line as Markdown: roles and double backquotes become code."""
    text = re.sub(r":\w+:`~(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text)
    return re.sub(r"``([^`]*)``", r"`\1`", text)


def docstring(text: str) -> list[str]:
    """The lines of a docstring as Markdown. ``Args:`` and lists of fields become lists, formulas become code."""
    blocks = [b.splitlines() for b in re.split(r"\n\s*\n", inline(text.strip()))]
    lines: list[str] = []
    for block in blocks:
        lines += [*_block(block), ""]
    return lines[:-1]


def _codes(names: str) -> str:
    return ", ".join(f"`{name}`" for name in re.split(r",? +", names))


def _block(block: list[str]) -> list[str]:
    lines: list[str] = []
    entries = False
    for line in block:
        section, entry, field = _SECTION.match(line), _ENTRY.match(line), _FIELD.match(line)
        if section:
            lines += ["", f"{section[1]}:", ""] if lines else [f"{section[1]}:", ""]
            entries = True
        elif entries and entry:
            lines.append(f"- {_codes(entry[1])}: {entry[2]}")
        elif field:
            lines += [""] if lines and not lines[-1].startswith(("- ", "  ")) else []
            lines.append(f"- {_codes(field[1])}: {field[2]}")
        elif lines and lines[-1].startswith(("- ", "  ")):
            lines.append(f"  {line.strip()}")
        else:
            lines.append(f"- {line.strip()}" if entries and lines and lines[-1] == "" else line.strip())
    return lines
