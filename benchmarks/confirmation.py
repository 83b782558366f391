"""Repeatability of confirmed values: digits, 60 trials, confirmed twice on independent seeds.

Claim: for >= 90 % of the points, the second confirmation's test accuracy lies inside the first one's interval, and so
does its validation accuracy. Two biases are reported too: the search's validation accuracy minus that of new
seeds on the same samples (due to selection), and the new seeds' validation accuracy minus their test accuracy (due to
the split, as these trainings were not selected).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import ROOT, save
from harness.search.driver import search
from harness.space.space import load_space
from harness.verify.confirm import confirm


def _inside(second: Mapping[str, Any], first: Mapping[str, Any], part: str) -> bool:
    low, high = first[f"{part}_interval"]
    return low <= second[f"{part}_accuracy"] <= high


def _half(row: Mapping[str, Any]) -> float:
    low, _ = row["test_interval"]
    return row["test_accuracy"] - low


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "digits"
        search(load_space(ROOT / "benchmarks" / "spaces" / "digits_batch1.yaml"), study, progress=False)
        first = {p["trial"]: p for p in confirm(study)["points"]}
        second = {p["trial"]: p for p in confirm(study, repeat=1)["points"]}
    rows = [
        {
            "trial": n,
            "member": p["member"],
            "search_validation_accuracy": p["promised"]["accuracy"],
            "validation_accuracy": p["validation_accuracy"],
            "validation_interval": p["validation_interval"],
            "second_validation_accuracy": second[n]["validation_accuracy"],
            "test_accuracy": p["test_accuracy"],
            "test_interval": p["test_interval"],
            "second_test_accuracy": second[n]["test_accuracy"],
            "inside": _inside(second[n], p, "test"),
            "validation_inside": _inside(second[n], p, "validation"),
            "search_latency_ms": p["promised"]["latency_ms"],
            "latency_ms": p["latency_ms"],
            "second_latency_ms": second[n]["latency_ms"],
            "size_bytes": p["size_bytes"],
        }
        for n, p in first.items()
    ]
    seeds = [(r["validation_accuracy"] + r["second_validation_accuracy"]) / 2 for r in rows]
    tests = [(r["test_accuracy"] + r["second_test_accuracy"]) / 2 for r in rows]
    selected = [r["search_validation_accuracy"] - again for r, again in zip(rows, seeds, strict=True)]
    split = [validation - test for validation, test in zip(seeds, tests, strict=True)]
    shift = [abs(r["second_latency_ms"] / r["latency_ms"] - 1) for r in rows]
    figures = {
        "points": len(rows),
        "inside_share": statistics.mean(r["inside"] for r in rows),
        "validation_inside_share": statistics.mean(r["validation_inside"] for r in rows),
        "search_minus_new_seeds_validation": {"mean": statistics.mean(selected), "largest": max(selected)},
        "new_seeds_validation_minus_test": {"mean": statistics.mean(split), "largest": max(split)},
        "test_half_width": {
            "median": statistics.median(_half(r) for r in rows),
            "smallest": min(_half(r) for r in rows),
            "largest": max(_half(r) for r in rows),
        },
        "latency_second_to_first": {"median_change": statistics.median(shift), "largest_change": max(shift)},
        "rows": rows,
    }
    save("confirmation", figures)


if __name__ == "__main__":
    main()
