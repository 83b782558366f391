"""Mistakes in data and code are answered before Ray starts, by a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from click.testing import Result
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import HarnessError, SpaceError
from harness.search.examination import Examination

STUDENT = "student: {model: mlp, hidden: {choice: [[4], [8]]}}\n"
OWN = """
import os, sys
import numpy as np
print("a line of my own")
def data(what=""):
    if what == "leaves": sys.exit(3)
    if what == "dies": os.kill(os.getpid(), 9)
    if what == "raises": raise RuntimeError("no such bucket")
    x = np.random.rand(40, 3).astype("float32")
    y = np.arange(40) % 2
    return dict(x_train=x, y_train=np.arange(40) if what == "labels" else y, x_test=x, y_test=y)
"""


@pytest.fixture
def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Result]]:
    """``harness search`` of a space in a folder with the user's module, where Ray may not start."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("Ray starts")

    def search(text: str) -> Result:
        (tmp_path / "s.yaml").write_text(text)
        return CliRunner().invoke(app, ["search", "s.yaml"])

    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ray, "init", never)
    yield search
    sys.modules.pop("own", None)


@pytest.mark.parametrize(
    ("task", "rest", "code", "expected"),
    [
        ("{name: arrays, train: names.npz, test: names.npz}", "", 2, "s.yaml:1: task."),
        ('{name: "own:data", what: raises}', "", 2, "s.yaml:1: task.name: 'own:data' raised RuntimeError: no such"),
        ('{name: "own:data", what: labels}', "", 2, "s.yaml:1: task.name: y of train has 40 different labels"),
        (
            '{name: "own:data"}',
            "objectives: [{name: f2, direction: maximize}, size_bytes]\n",
            2,
            "s.yaml:3: objectives.0: must be a metric that",
        ),
        ('{name: "own:data", what: dies}', "", 1, "ended without an answer (exit code -9)"),
        ('{name: "own:data", what: leaves}', "", 2, "s.yaml:1: task.name: 'own:data' raised SystemExit: 3"),
    ],
)
def test_a_mistake_in_the_data_is_answered_before_ray_starts(searched, tmp_path, task, rest, code, expected):
    np.savez(tmp_path / "names.npz", x=np.zeros((4, 3), np.float32), y=np.array(["a", "b", "a", "b"]))
    ended = searched(f"task: {task}\n{STUDENT}{rest}")
    assert ended.exit_code == code and expected in ended.stderr, ended.stderr
    assert "Ray starts" not in ended.stderr and not (tmp_path / "results" / "s").exists()


def test_data_that_can_be_used_reach_ray(searched):
    ended = searched(f'task: {{name: "own:data"}}\n{STUDENT}')
    assert "Ray starts" in ended.stderr and ended.stdout == ""


def test_the_process_ends_with_its_context(tmp_path):
    with Examination("tests.slow_look", {"examine": (60,), "fingerprint": (), "prove": ()}):
        [child] = psutil.Process().children()
        assert child.is_running()
    assert not psutil.pid_exists(child.pid)


def test_each_stage_is_answered_as_soon_as_it_is_done():
    with Examination("tests.slow_look", {"examine": (0,), "fingerprint": (), "prove": ("no",)}) as looked:
        assert looked.answer() == os.getpid() and looked.answer() == {}
        with pytest.raises(SpaceError, match="task.name: must be yes, but got 'no'"):
            looked.answer()
        with pytest.raises(HarnessError, match="ended without an answer"):
            looked.answer()
