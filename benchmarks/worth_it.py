"""Is a search worth its time? Digits, five study seeds, every value from the test part.

For each seed: the searched front's hypervolume (files chosen on validation, scored once on test)
minus that of the plain fp32 width sweep, and the smallest file within 1 accuracy point of the
widest fp32 student. The sweep's students are the study's own baselines: same epochs, same teacher
logits at hand, same export, timed in the same run. A front is taken without its baselines, so that
the search is not credited with points that it was given.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import ROOT, save
from harness.report import load_study
from harness.report.data import StudyData
from harness.report.fronts import front_mask, hypervolume
from harness.search.driver import search
from harness.space import load_space

SEEDS = range(5)
TRIALS = 60
POINTS = 0.01  # how much accuracy the small file may give up
T_95_DF4 = 2.776  # two-sided 95 % quantile of Student's t with 4 degrees of freedom


def study(seed: int, folder: Path) -> StudyData:
    overrides = [f"search.seed={seed}", f"search.trials={TRIALS}"]
    outcome = search(load_space(ROOT / "search_spaces" / "digits.yaml", overrides=overrides), folder, progress=False)
    if outcome.status != "complete":
        raise SystemExit(f"seed {seed}: the search ended as {outcome.status}")
    return load_study(folder)


def judge(data: StudyData) -> dict[str, Any]:
    """Front against sweep, on test values."""
    searched = data.finished[data.finished["feasible"] & (data.finished["baseline"] == "")]
    mask = front_mask(searched[[o.name for o in data.objectives]].to_numpy(float), data.objectives)
    front, sweep = (rows.assign(accuracy=rows["test_accuracy"]) for rows in (searched[mask], data.sweep))
    scored = front[front["accuracy"].notna()]
    widest = sweep[sweep["baseline"] == "widest-fp32"].iloc[0]
    near = scored[scored["accuracy"] >= widest["accuracy"] - POINTS].sort_values("size_bytes")
    best = None if near.empty else near.iloc[0]
    return {
        "hypervolume_front": hypervolume(scored, data),
        "hypervolume_width_sweep": hypervolume(sweep, data),
        "front_points": len(scored),
        "front_points_dominated_by_baselines": len(front) - len(scored),
        "test_n": int(widest["test_n"]),
        "widest_fp32": {"test_accuracy": widest["accuracy"], "size_bytes": int(widest["size_bytes"])},
        "smallest_within_1_point": None
        if best is None
        else {
            "trial": int(best["number"]),
            "test_accuracy": best["accuracy"],
            "size_bytes": int(best["size_bytes"]),
            "times_smaller": widest["size_bytes"] / best["size_bytes"],
            "latency_ratio": best["latency_ms"] / widest["latency_ms"],
        },
        "wall_s": data.study["wall_s"],
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = {seed: judge(study(seed, Path(folder) / str(seed))) for seed in SEEDS}
    differences = [r["hypervolume_front"] - r["hypervolume_width_sweep"] for r in runs.values()]
    mean = statistics.mean(differences)
    half = T_95_DF4 * statistics.stdev(differences) / math.sqrt(len(differences))
    smaller = [r["smallest_within_1_point"] for r in runs.values()]
    figures = {
        "trials": TRIALS,
        "seeds": runs,
        "hypervolume_difference": {"mean": mean, "low_95": mean - half, "high_95": mean + half, "values": differences},
        "excludes_zero": mean - half > 0,
        "seeds_with_an_eighth_within_1_point": sum(bool(s and s["times_smaller"] >= 8) for s in smaller),
    }
    save("worth_it", figures)


if __name__ == "__main__":
    main()
