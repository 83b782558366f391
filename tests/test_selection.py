"""What is selected on validation and told on test is unbiased; what is selected on test is not. Simulated studies:
each trial has a true accuracy, validation and test count right answers independently of each other."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.worth_it import POINTS, judge
from harness.report.compare import Contender, attained
from harness.report.compare_page import fronts
from harness.report.study_data import StudyData
from harness.space.settings import Objective
from harness.stats.pareto import nondominated

OBJECTIVES = (
    Objective("accuracy", "maximize"),
    Objective("size_bytes", "minimize"),
    Objective("latency_ms", "minimize"),
)
SAMPLES = 360
STUDIES = 300


def study(seed: int, loss: float = 0.0) -> tuple[StudyData, np.ndarray]:
    """40 trials, the first the widest fp32 student, and their true accuracies: 0.92, up to ``loss`` less for the
    smallest files."""
    rng = np.random.default_rng(seed)
    size = np.geomspace(100_000, 1_000, 40).round()
    truth = 0.92 - loss * np.linspace(0, 1, 40) ** 3
    trials = pd.DataFrame(
        {
            "number": np.arange(40),
            "baseline": ["widest-fp32"] + [""] * 39,
            "accuracy": rng.binomial(SAMPLES, truth) / SAMPLES,
            "test_accuracy": rng.binomial(SAMPLES, truth) / SAMPLES,
            "test_n": SAMPLES,
            "size_bytes": size,
            "latency_ms": rng.uniform(0.02, 0.04, 40),
            "complete": True,
            "feasible": True,
        }
    )
    values = trials[[o.name for o in OBJECTIVES]].to_numpy(float)
    trials["front"] = nondominated(values, [o.direction for o in OBJECTIVES])
    reference = {"accuracy": 0.1, "size_bytes": 200_000.0, "latency_ms": 0.08}
    told = {"reference": reference, "wall_s": 1.0}
    data = StudyData(Path("s"), "s", trials, {}, OBJECTIVES, {}, (), told, {}, {}, {}, ())
    return data, truth


def bias(differences: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(np.mean(differences)), float(np.std(differences, ddof=1) / np.sqrt(len(differences)))


def chosen_on_test(data: StudyData, truth: np.ndarray) -> float | None:
    """How far the smallest file within a point of the widest one *on test* is told above its true accuracy."""
    searched = data.front[data.front["baseline"] == ""]
    near = searched[searched["test_accuracy"] >= data.trials["test_accuracy"][0] - POINTS]
    if near.empty:
        return None
    best = near.sort_values("size_bytes").iloc[0]
    return best["test_accuracy"] - truth[int(best["number"])]


@pytest.mark.parametrize("loss", [0.0, 0.06])
def test_the_smallest_file_near_the_widest_is_told_without_bias(loss):
    """Its accuracy on test, and its difference to the widest student's there."""
    told, apart, on_test = [], [], []
    for seed in range(STUDIES):
        data, truth = study(seed, loss)
        found = judge(data)["smallest_within_1_point"]
        if found is None:
            continue
        told.append(found["test_accuracy"] - truth[found["trial"]])
        apart.append(found["test_minus_widest"] - (truth[found["trial"]] - truth[0]))
        on_test.append(chosen_on_test(data, truth))
    for differences in (told, apart):
        mean, error = bias(differences)
        assert abs(mean) < 3 * error
    mean, error = bias([found for found in on_test if found is not None])
    assert mean > 5 * error, "the simulation can tell the two rules apart"


def test_what_is_attained_is_told_without_bias():
    """Equal truths: whatever is taken, 0.92 is expected of it."""
    values, on_test = [], []
    for seed in range(STUDIES):
        data, truth = study(seed)
        own = Contender("a", (data,), ())
        for bound, [found] in attained([own], "size_bytes")[-1:]:
            values.append(found - truth[0])
            within = data.front[data.front["size_bytes"] <= bound * (1 + 1e-9)]
            on_test.append(within["test_accuracy"].max() - truth[0])
    mean, error = bias(values)
    assert abs(mean) < 3 * error
    mean, error = bias(on_test)
    assert mean > 10 * error, "the simulation can tell the two rules apart"


def test_fronts_are_those_of_validation_at_their_test_accuracies():
    data, _ = study(0, 0.06)
    [line] = fronts([Contender("a", (data,), ())], "size_bytes", Objective("accuracy", "maximize")).data
    plane = data.trials[["accuracy", "size_bytes"]].to_numpy(float)
    members = data.trials[nondominated(plane, ["maximize", "minimize"])].sort_values("size_bytes")
    assert list(line.x) == members["size_bytes"].tolist()
    assert list(line.y) == members["test_accuracy"].tolist()
