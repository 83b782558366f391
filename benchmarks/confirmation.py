"""Do confirmed values repeat? Digits, 60 trials, confirmed twice on independent seeds.

Claim: the second confirmation's test accuracy lies inside the first one's interval for >= 90 % of
the points. Beside it: what the search had said, and by how much it was too good.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import ROOT, save
from harness.search.confirm import confirm
from harness.search.driver import search
from harness.space import load_space


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "digits"
        search(load_space(ROOT / "search_spaces" / "digits.yaml"), study, progress=False)
        first = {p["trial"]: p for p in confirm(study)["points"]}
        second = {p["trial"]: p for p in confirm(study, repeat=1)["points"]}
    rows = [
        {
            "trial": n,
            "member": p["member"],
            "search_validation_accuracy": p["promised"]["accuracy"],
            "test_accuracy": p["test_accuracy"],
            "test_interval": p["test_interval"],
            "second_test_accuracy": second[n]["test_accuracy"],
            "inside": p["test_interval"][0] <= second[n]["test_accuracy"] <= p["test_interval"][1],
            "search_latency_ms": p["promised"]["latency_ms"],
            "latency_ms": p["latency_ms"],
            "second_latency_ms": second[n]["latency_ms"],
            "size_bytes": p["size_bytes"],
        }
        for n, p in first.items()
    ]
    curse = [r["search_validation_accuracy"] - r["test_accuracy"] for r in rows]
    shift = [abs(r["second_latency_ms"] / r["latency_ms"] - 1) for r in rows]
    figures = {
        "points": len(rows),
        "inside_share": statistics.mean(r["inside"] for r in rows),
        "search_minus_confirmed_accuracy": {"mean": statistics.mean(curse), "largest": max(curse)},
        "latency_second_to_first": {"median_change": statistics.median(shift), "largest_change": max(shift)},
        "rows": rows,
    }
    save("confirmation", figures)


if __name__ == "__main__":
    main()
