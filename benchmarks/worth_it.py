"""The gain of a search over plain students: digits, five study seeds, chosen on validation, reported on test.

For each seed it reports the searched front's hypervolume (files chosen on validation, scored once on test)
minus that of the plain fp32 width sweep. It also reports the smallest file that loses at most 1
accuracy point on validation against the widest fp32 student, with the test accuracies of both. The sweep's
students are the study's baselines: same epochs, same teacher logits available, same export, timed in
the same run. The same is reported for the plane of accuracy and latency alone. The front excludes the baselines, so
that the search gets no credit for points that it was given.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd

from benchmarks.report import ROOT, save
from harness.report import load_study
from harness.report.fronts import hypervolume, reference_point
from harness.report.study_data import StudyData
from harness.search.driver import search
from harness.space.space import load_space
from harness.stats.intervals import mean_interval
from harness.stats.pareto import log_hypervolume, nondominated

SEEDS = range(5)
TRIALS = 60
POINTS = 0.01  # accuracy that the small file may lose on validation


def study(seed: int, folder: Path) -> StudyData:
    overrides = [f"search.seed={seed}", f"search.trials={TRIALS}"]
    outcome = search(load_space(ROOT / "search_spaces" / "digits.yaml", overrides=overrides), folder, progress=False)
    if outcome.status != "complete":
        raise SystemExit(f"seed {seed}: the search ended as {outcome.status}")
    return load_study(folder)


def judge(data: StudyData) -> dict[str, Any]:
    """Compare front and sweep, both chosen on validation, by their test values."""
    searched = data.finished.loc[data.finished["feasible"] & (data.finished["baseline"] == "")]
    values = searched.loc[:, [o.name for o in data.objectives]].to_numpy(float)
    front = searched.loc[nondominated(values, [o.direction for o in data.objectives])]
    scored, sweep = front.loc[front["test_accuracy"].notna()], data.sweep
    widest = sweep[sweep["baseline"] == "widest-fp32"].iloc[0]
    return {
        "hypervolume_front": hypervolume(on_test(scored), data),
        "hypervolume_width_sweep": hypervolume(on_test(sweep), data),
        "front_points": len(scored),
        "front_points_dominated_by_baselines": len(front) - len(scored),
        "test_n": int(widest["test_n"]),
        "widest_fp32": {
            "validation_accuracy": widest["accuracy"],
            "test_accuracy": widest["test_accuracy"],
            "size_bytes": int(widest["size_bytes"]),
        },
        "accuracy_and_latency": {
            "hypervolume_front": in_plane(scored, data),
            "hypervolume_width_sweep": in_plane(sweep, data),
        },
        "smallest_within_1_point": smallest(scored, widest),
        "wall_s": data.study["wall_s"],
    }


def in_plane(rows: pd.DataFrame, data: StudyData) -> float:
    """Hypervolume of test accuracy and log latency alone, to the same reference point."""
    point = {name: reference_point(data)[name] for name in ("accuracy", "latency_ms")}
    return log_hypervolume(on_test(rows)[[*point]].to_numpy(float), point, ["maximize", "minimize"])


def on_test(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(accuracy=rows["test_accuracy"])


def smallest(rows: pd.DataFrame, widest: pd.Series) -> dict[str, Any] | None:
    """The smallest file within POINTS of the widest student on validation, and its loss of accuracy on test."""
    near = rows.loc[rows["accuracy"] >= widest["accuracy"] - POINTS].sort_values("size_bytes")
    if near.empty:
        return None
    best = near.iloc[0]
    return {
        "trial": int(best["number"]),
        "validation_accuracy": best["accuracy"],
        "test_accuracy": best["test_accuracy"],
        "test_minus_widest": best["test_accuracy"] - widest["test_accuracy"],
        "size_bytes": int(best["size_bytes"]),
        "times_smaller": widest["size_bytes"] / best["size_bytes"],
        "latency_ratio": best["latency_ms"] / widest["latency_ms"],
    }


def plane(runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """By how much the front's hypervolume of accuracy and latency exceeds the width sweep's."""
    planes = [run["accuracy_and_latency"] for run in runs]
    gains = [p["hypervolume_front"] - p["hypervolume_width_sweep"] for p in planes]
    mean, low, high = mean_interval(gains)
    return {"mean": mean, "low_95": low, "high_95": high, "values": gains}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = {seed: judge(study(seed, Path(folder) / str(seed))) for seed in SEEDS}
    differences = [r["hypervolume_front"] - r["hypervolume_width_sweep"] for r in runs.values()]
    mean, low, high = mean_interval(differences)
    smaller = [found for r in runs.values() if (found := r["smallest_within_1_point"])]
    figures = {
        "trials": TRIALS,
        "seeds": runs,
        "hypervolume_difference": {"mean": mean, "low_95": low, "high_95": high, "values": differences},
        "excludes_zero": low > 0,
        "accuracy_and_latency": plane(runs.values()),
        "smallest_within_1_point_of_validation": {
            "seeds": len(smaller),
            "times_smaller": [found["times_smaller"] for found in smaller],
            "test_minus_widest": mean_interval([found["test_minus_widest"] for found in smaller]),
        },
    }
    save("worth_it", figures)


if __name__ == "__main__":
    main()
