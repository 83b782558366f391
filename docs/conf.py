"""Sphinx: ``make docs`` builds the pages into build/docs/html. The source folder is the repository, so that links
between Markdown files are the same there and on a code host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

project = "harness"
author = "the harness authors"
version = release = re.findall(r'^__version__ = "(.+)"', (ROOT / "harness" / "__init__.py").read_text(), re.M)[0]
extensions = ["myst_parser"]
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
include_patterns = [
    "docs/*.md",
    "docs/*/*.md",
    "examples/*/README.md",
    "results/reference/*/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
]
exclude_patterns = ["docs/generators"]
myst_heading_anchors = 4
smartquotes = False
nitpicky = True
suppress_warnings = ["misc.highlighting_failure", "toc.not_included"]  # the test of links finds pages without a link

html_theme = "furo"
html_title = f"harness {version}"
html_static_path, html_css_files = ["site"], ["site.css"]
html_copy_source = html_show_sourcelink = False
html_use_index = False
html_show_sphinx = False
html_show_copyright = False
pygments_style, pygments_dark_style = "friendly", "github-dark"


def contents(index: str) -> str:
    """The navigation: a hidden table of contents for each heading of the index page, with the pages that it links."""
    trees = []
    for section in re.split(r"^## ", index, flags=re.M)[1:]:
        caption, _, text = section.partition("\n")
        pages = dict.fromkeys(re.findall(r"\]\(([\w./-]+)\.md\)", text))
        if pages:
            trees.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n")
    return "\n".join(trees)


def add_contents(app: Any, docname: str, source: list[str]) -> None:
    """Append the navigation to the index page, whose file stays plain Markdown."""
    if docname == root_doc:
        source[0] += "\n" + contents(source[0])


def add_front_door(app: Any, error: Exception | None) -> None:
    """index.html at the top of the site leads to the index page."""
    if error is None and app.builder.format == "html":
        page = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=docs/index.html">'
        link = '<title>harness</title><a href="docs/index.html">Documentation of harness</a>'
        (Path(app.outdir) / "index.html").write_text(f"{page}{link}\n")


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", add_contents)
    app.connect("build-finished", add_front_door)
    return {"parallel_read_safe": True}
