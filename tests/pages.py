"""The Markdown pages of the repository, and the code blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "docs").glob("[!g]*/*.md"))  # not generators/
PAGES = [ROOT / "README.md", *DOCS]
LINKED = [*PAGES, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))]
LINKED += sorted((ROOT / "examples").glob("*/README.md"))
_FENCE = re.compile(r"^ *```(.*)$", re.M)
_MARKER = re.compile(r"<!-- test: (.*) -->\s*$")


@dataclass(frozen=True)
class Block:
    """A code block: its language as written behind the fence, empty for plain ones, and the replacements by which a
    test makes it smaller: ``<!-- test: 40 -> 4; 95% -> 5% -->`` in the line before the block."""

    language: str
    text: str
    replacements: tuple[tuple[str, str], ...] = ()

    @property
    def small(self) -> str:
        """The text with its replacements made; each must occur."""
        text = self.text
        for shown, run in self.replacements:
            assert shown in text, f"nothing to replace: {shown!r}"
            text = text.replace(shown, run)
        return text


def all_blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    parts = _FENCE.split(page.read_text())  # text, language, block, "", text, ...
    found = []
    for before, language, text in zip(parts[0::4], parts[1::4], parts[2::4], strict=False):
        marker = _MARKER.search(before)
        pairs = [pair.split(" -> ") for pair in marker[1].split("; ")] if marker else []
        found.append(Block(language, text.removeprefix("\n"), tuple((shown, run) for shown, run in pairs)))
    return found


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return [block.text for block in all_blocks(page) if block.language == language]


def commands(page: Path) -> list[str]:
    """The lines of a page's plain blocks that call harness: without comments, drawings, and choices of verbs."""
    lines = [line.partition(" #")[0].strip() for block in blocks(page, "") for line in block.splitlines()]
    return [line for line in lines if line.startswith("harness ") and not re.search(r"[\[|]|\.\.\.|  ", line)]


def headings(page: Path) -> list[str]:
    """The texts of a page's headings, without those of its code blocks."""
    text = "".join(_FENCE.split(page.read_text())[0::4])
    return re.findall(r"^#+ (.+)$", text, re.M)
