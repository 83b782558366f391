"""The report of a study: its files as tables, plots, a page and a comparison with other studies.

Input: a study's folder, which may come from somebody else. Output: a page, tables and recipes. Nothing here runs code
that a study names, and nothing imports torch or optuna.
"""

from __future__ import annotations

from typing import Any

_LAZY = {
    "StudyData": "harness.report.study_data",
    "load_study": "harness.report.loading",
    "write_report": "harness.report.page",
    "terminal_table": "harness.report.tables",
    "pick": "harness.report.picks",
}

__all__ = list(_LAZY)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: pandas and jinja2 take a second, and `harness --help` needs neither."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'harness.report' has no attribute {name!r}")
