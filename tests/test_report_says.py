"""What weakens a study's numbers is said and marked: chance, a weak teacher, a loss still falling; 80 columns."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from harness.cli.main import app
from harness.records import Measurement
from harness.report import load_study, terminal_table
from harness.report.fronts import at_chance
from harness.report.page import warnings
from harness.report.tables import folded
from harness.report.training import late_fall
from harness.report.trial_table import trial_rows
from harness.search.lock import mark_draining, run_lock
from harness.search.signals import Stop
from tests.searching import search_here, space_of


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    box = tmp_path_factory.mktemp("box")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_FAKE", str(box))
        search_here(space_of(box), box / "study")
    return box / "study"


@pytest.mark.parametrize(("chance", "n"), [(0.6, 200), (0.1, 1000), (0.5, 60), (0.35, 400)])
def test_chance_is_refuted_where_the_binomial_test_refutes_it(chance: float, n: int) -> None:
    """scipy's exact test; within two samples of its border the approximation may differ."""
    for k in range(n + 1):
        exact = stats.binomtest(k, n, chance, alternative="greater").pvalue
        nearby = [stats.binomtest(min(max(k + d, 0), n), n, chance, alternative="greater").pvalue for d in (-2, 2)]
        if (nearby[0] > 0.05) == (nearby[1] > 0.05):
            assert at_chance(k / n, chance, n) == (exact > 0.05)
    assert not at_chance(0.0, None, n)


def test_front_points_at_the_level_of_the_majority_are_marked_everywhere(study):
    data = load_study(study)
    assert not any("most frequent class" in w for w in warnings(data))
    low = int(data.front["number"].iloc[0])
    level = Measurement(name="accuracy", unit="1", values=[0.52], conditions={"n": 100})
    trials = data.trials.copy()
    trials.loc[low, "accuracy"] = 0.52  # chance is 0.5
    data = replace(data, trials=trials, records={**data.records, low: data.records[low].with_measurements(level)})
    [said] = [w for w in warnings(data) if "most frequent class" in w]
    assert said.endswith(f": {low}") and "50.00 %" in said
    table = terminal_table(data)
    assert f"{low}!" in table and "! no better than always saying the most frequent class" in table
    marked = [r["cells"]["number"][0] for r in trial_rows(data) if "most frequent" in r["cells"]["front"][0]]
    assert marked == [str(low)]


def test_a_weak_teacher_is_said(study):
    data = load_study(study)
    best = data.finished["accuracy"].max()

    def said(accuracy):
        return [w for w in warnings(replace(data, teacher={**data.teacher, "accuracy": accuracy})) if "teacher" in w]

    assert said(best + 0.001) == [] and said(0.999) == []
    [weaker] = said(best - 0.001)
    assert "the teacher is weaker than the best student" in weaker
    assert len(said(0.51)) == 2 and "level of the most frequent class" in said(0.51)[0]


def history(folder: Path, losses: list[float]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "history.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["epoch", "loss"])
        rows.writerows(enumerate(losses, 1))
    return folder / "history.csv"


def test_the_late_share_of_a_falling_loss(tmp_path):
    even = history(tmp_path / "even", np.linspace(2, 1, 21).tolist())
    assert late_fall(even) == pytest.approx(0.25)
    x = np.arange(21)
    settled = history(tmp_path / "settled", (0.1 + 2 * np.exp(-x / 3)).tolist())
    assert late_fall(settled) == pytest.approx((np.exp(-15 / 3) - np.exp(-20 / 3)) / (1 - np.exp(-20 / 3)))
    assert late_fall(history(tmp_path / "rising", [1.0, 1.1, 1.2, 1.3, 1.4])) == 0
    assert late_fall(history(tmp_path / "nan", [1.0, float("nan"), 0.5, 0.4, 0.3])) == 0
    assert late_fall(history(tmp_path / "short", [3.0, 2.0, 1.0])) == 0
    assert late_fall(tmp_path / "none" / "history.csv") == 0


def test_losses_that_still_fall_on_the_front_are_said(study):
    data = load_study(study)
    first, *others = data.front["number"].tolist()
    for number in others:
        history(study / "trials" / f"{number:05d}", [2.0, 0.5, 0.1, 0.1, 0.1, 0.1])
    assert not any("still falling" in w for w in warnings(data))
    history(study / "trials" / f"{first:05d}", [2.0, 1.8, 1.6, 1.4, 1.2, 1.0])
    [said] = [w for w in warnings(data) if "still falling" in w]
    assert f"at the end of 1 of the front's {1 + len(others)} trials: {first} (" in said


@pytest.mark.parametrize("columns", [60, *range(73, 88), 100, 130])
def test_the_table_fits_the_terminal_and_splits_no_parameter(study, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    data = load_study(study)
    text = terminal_table(data)
    assert max(map(len, text.splitlines())) <= columns
    for number in data.front["number"].tolist():
        row = data.trials.loc[number]
        if not row["baseline"]:
            assert f"bits {row['quant.bits']:.0f}" in text and f"lr {row['train.lr']:.3g}" in text


def test_parts_are_folded_between_each_other_only():
    assert folded(["lr 0.1", "bits 4", "T 2"], 14) == "lr 0.1, bits 4,\nT 2".replace(", bits 4,\n", ",\nbits 4, ")
    assert folded(["a long part", "b"], 3) == "a long part,\nb"


def test_heads_bear_no_unit_that_the_cells_do_not(study, monkeypatch):
    """The trials' table said latency_ms above cells in microseconds."""
    monkeypatch.setenv("COLUMNS", "80")
    head = terminal_table(load_study(study)).splitlines()[2]
    assert "latency" in head and "_ms" not in head


def test_status_says_running_draining_and_not_ended(study, tmp_path):
    copied = shutil.copytree(study, tmp_path / "study")

    def status() -> str:
        result = CliRunner().invoke(app, ["status", str(copied)])
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()[0]

    assert status() == "study: complete"
    with run_lock(copied):
        assert status() == f"study: running (pid {os.getpid()} on {socket.gethostname()})"
        with Stop(lambda: mark_draining(copied)) as stop:
            stop.drain()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked  # as a search looks after every answer
            assert status().startswith(f"study: draining (pid {os.getpid()} ")
    assert status() == "study: complete"
    (copied / "study.json").unlink()
    assert status() == "study: not ended: the same search command resumes it"
