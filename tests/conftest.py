"""One thread a process, a cache of its own, and a Ray that asks nobody for a token and whose workers
run at the priority of everybody else (its own, nice 15, stands still beside any other load).

Environment variables are set here, before anything imports torch or ray; torch itself is imported
by the tests that need it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.export.template import Templates

_CACHE = tempfile.TemporaryDirectory(prefix="harness-tests-")
ROOT = Path(__file__).resolve().parent.parent

os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HARNESS_CACHE": _CACHE.name,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
)
os.environ.pop("RAY_ADDRESS", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with searches first: they are the longest, and each stays with one process."""
    long = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a user's module into the current folder, which is the test's own; gives its name."""

    def write(text: str) -> str:
        name = f"own_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)  # restores sys.path afterwards
        return name

    return write


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a study, in which the fake trials leave their traces and find their switches."""
    monkeypatch.setenv("HARNESS_FAKE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    """Graphs by structure, kept for the tests of one file."""
    from harness.export.template import Templates  # with torch

    return Templates(tmp_path_factory.mktemp("graphs"))
