"""``harness confirm`` is interrupted while it trains, and given again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.long]

SPACE = """
task: {name: digits}
student: {model: mlp, hidden: {choice: [[8], [16]]}}
train: {epochs: 60}
search: {trials: 3}
resources: {slots: 1}
"""
HARNESS = [sys.executable, "-m", "harness"]
CONFIRM = [*HARNESS, "confirm", "results/small", "--seeds", "4", "--seconds", "0.5", "--processes", "2"]


def finished(folder: Path) -> dict[Path, int]:
    """When each finished training of the confirmation was recorded."""
    records = folder.glob("results/small/confirm/**/record.json")
    return {path: path.stat().st_mtime_ns for path in records}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    (folder / "small.yaml").write_text(SPACE)
    subprocess.run([*HARNESS, "search", "small.yaml"], cwd=folder, check=True, capture_output=True, timeout=240)
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_confirmation_goes_on_where_it_was(searched, number, code) -> None:
    before = finished(searched)
    driver = subprocess.Popen(CONFIRM, cwd=searched, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while len(finished(searched)) <= len(before) and driver.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    driver.send_signal(number)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == code, said
    assert "Traceback" not in said and "harness: interrupted" in said
    assert before.items() <= finished(searched).items()


def test_then_it_ends_and_trains_nothing_twice(searched) -> None:
    before = finished(searched)
    assert before, "the interrupted runs left nothing to continue"
    ended = subprocess.run(CONFIRM, cwd=searched, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    assert before.items() <= finished(searched).items()
    assert "Report: results/small/report/index.html" in ended.stdout
