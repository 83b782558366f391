"""Confirmation: who is on a noisy front, what an interval promises, and a whole run without training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.measure.lab import Lab, Session
from harness.records import read_record
from harness.report import load_study, write_report
from harness.report.confirmed import columns, confirmed_rows, terminal_table
from harness.stats.pareto import nondominated
from harness.verify.confirm import confirm
from harness.verify.membership import Noisy, membership, pooled_error
from tests import fake_trial
from tests.searching import Here, search_here, space_of

DIRECTIONS = ("maximize", "minimize")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 100)), min_size=1, max_size=12))
def test_without_noise_membership_is_dominance(points: list[tuple[float, float]]) -> None:
    values = np.array(points)
    known = Noisy(values, np.zeros_like(values), np.array([False, True]), np.arange(len(values)))
    assert membership(known, DIRECTIONS, draws=2).tolist() == nondominated(values, DIRECTIONS).astype(float).tolist()


def test_a_tie_within_the_noise_is_possible_and_a_clear_loser_is_not() -> None:
    """Two points of one size whose accuracies differ by nothing: each wins half of the draws."""
    mean = np.array([[0.95, 10.0], [0.95, 10.0], [0.80, 20.0]])
    sd = np.array([[0.01, 0.0], [0.01, 0.0], [0.01, 0.0]])
    found = membership(Noisy(mean, sd, np.array([False, True]), np.arange(3)), DIRECTIONS, draws=4000)
    assert found[:2] == pytest.approx([0.5, 0.5], abs=0.03) and found[2] == 0


def test_points_of_one_structure_err_together() -> None:
    """Equal files but for an accuracy that is surely higher: the lower one never wins by a timing."""
    mean, sd = np.array([[0.95, 10.0], [0.94, 10.0]]), np.array([[0.0, 0.1], [0.0, 0.1]])
    logged = np.array([False, True])
    assert membership(Noisy(mean, sd, logged, np.array(["a", "a"])), DIRECTIONS, draws=500)[1] == 0
    assert membership(Noisy(mean, sd, logged, np.array(["a", "b"])), DIRECTIONS, draws=500)[1] > 0.3


class Bench(Lab):
    """Every file takes a millisecond."""

    def session(self, jobs, *args, **options):  # type: ignore[no-untyped-def]
        return Session([[[1.0] * 5] * 12 for _ in jobs], [1.0] * len(jobs), 0, "h", "cpu", [])


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_FAKE", str(tmp_path))
    search_here(space_of(tmp_path), tmp_path / "study")
    return tmp_path / "study"


def run(study: Path, **options):  # type: ignore[no-untyped-def]
    return confirm(study, processes=2, say=lambda text: None, make_pool=lambda space: Here(), lab=Bench, **options)


def test_points_are_trained_on_new_seeds_and_published_beside_the_promise(study: Path, tmp_path: Path) -> None:
    result = run(study)
    front = set(json.loads((study / "study.json").read_text())["front"])
    points = {p["trial"]: p for p in result["points"]}
    assert front <= set(points)
    for number, point in points.items():
        runs = [read_record(study / "confirm" / "0" / f"{number:05d}" / str(s)) for s in range(3)]
        seeds = {r.recipe["seed"] for r in runs if r is not None}
        assert len(seeds) == 3 and min(seeds) >= 2**30
        assert point["promised"]["accuracy"] == read_record(study / "trials" / f"{number:05d}").value("accuracy")  # type: ignore[union-attr]
        assert point["test_accuracy"] == 0.5 and point["latency_ms"] == 1.0
    assert json.loads((study / "confirm.json").read_text())["points"] == result["points"]
    page = write_report(load_study(study)).read_text()
    assert "The confirmed front" in page and "confirmed" in terminal_table(result)
    assert [row[0] for row in confirmed_rows(result)] != []


def test_what_was_trained_is_not_trained_again_and_a_repeat_is_new(study: Path, tmp_path: Path) -> None:
    run(study)
    before = (tmp_path / "started").read_text()
    run(study)
    assert (tmp_path / "started").read_text() == before
    run(study, repeat=1)
    assert len((tmp_path / "started").read_text()) > len(before)
    again = read_record(next((study / "confirm" / "1").glob("[0-9]*/0")))
    first = read_record(next((study / "confirm" / "0").glob("[0-9]*/0")))
    assert again is not None and first is not None and again.recipe["seed"] != first.recipe["seed"]


def test_what_the_new_seeds_score_on_test_makes_no_member(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every accuracy on test the other way round: the same members, only the told test values are others."""
    first = {p["trial"]: p for p in run(study)["points"]}

    def other_way_round(folder: str) -> dict[str, float]:
        accuracy = read_record(Path(folder)).value("accuracy")  # type: ignore[union-attr]
        return {"accuracy": 1.0 - accuracy, "n": 50.0}

    monkeypatch.setattr(fake_trial, "score_test", other_way_round)
    second = {p["trial"]: p for p in run(study, repeat=1)["points"]}
    assert len(first) > 3
    for number, point in first.items():
        assert second[number]["probability"] == pytest.approx(point["probability"], abs=0.03)
        assert second[number]["validation_accuracy"] == pytest.approx(point["promised"]["accuracy"])
        assert second[number]["test_accuracy"] == pytest.approx(1 - point["validation_accuracy"])


def test_a_metric_of_the_task_is_confirmed_like_accuracy() -> None:
    """The pooled error of a mean is that of scipy's analysis of variance: the root of the mean square within."""
    rng = np.random.default_rng(0)
    values = rng.normal(0.8, 0.02, (12, 3))
    within = ((values - values.mean(axis=1, keepdims=True)) ** 2).sum() / (12 * 2)
    assert pooled_error(values.tolist()) == pytest.approx(math.sqrt(within / 3))
    point = {
        "trial": 4,
        "member": "sure",
        "probability": 1.0,
        "validation_accuracy": 0.9,
        "test_accuracy": 0.9,
        "test_interval": [0.88, 0.92],
        "size_bytes": 1000.0,
        "latency_ms": 0.02,
        "latency_interval_ms": [0.019, 0.021],
        "latency_verdict": "ok",
        "metrics": {"f1": {"validation": 0.8123, "test": 0.7987}},
        "promised": {"accuracy": 0.91, "size_bytes": 1000.0, "latency_ms": 0.02, "f1": 0.8456},
    }
    result = {"points": [point], "seeds": 3, "test_n": 100}
    assert columns(result)[-3:] == ["f1", "search's f1", "test f1"]
    assert confirmed_rows(result)[0][-3:] == ["0.8123", "0.8456", "0.7987"]
    assert len(columns(result)) == len(confirmed_rows(result)[0])
    table = terminal_table(result).splitlines()
    assert all(value in "\n".join(table) for value in ("0.8123", "0.7987", "1.00 kB"))
    plain = {**result, "points": [{**point, "metrics": {}}]}
    for shown in (result, plain):
        assert max(map(len, terminal_table(shown).splitlines()[:-1])) <= 80
