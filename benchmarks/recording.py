"""The cost of a file per trial: exporting, scoring, auditing and recording.

It is measured in processor seconds, which other load on the machine changes little. Random trials of the
digits space run one after the other in one process. ``added`` is the time for the file (the export of the untrained
student, needed for the constraint on latency, and everything after the last training step) over the time to build and
train the same students. Reported separately: the baselines' first exports (``first_exports_s``; they reuse the graph
exported for the teacher, which has the same architecture), the latency lab and the test accuracies.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.trial.job import TrialJob

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import ROOT, save
from harness.search.preflight import teacher_trees
from harness.space.space import Space, load_space
from harness.stats.intervals import mean_interval
from harness.trial import run as trial

ROUNDS, TRIALS = 8, 3


class Spent:
    """Processor seconds inside a function of the trial module."""

    def __init__(self, name: str):
        self.seconds, self._real = 0.0, getattr(trial, name)
        setattr(trial, name, self._timed)

    def _timed(self, *args: Any, **options: Any) -> Any:
        return self.add(lambda: self._real(*args, **options))

    def add(self, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        try:
            return work()
        finally:
            self.seconds += time.process_time() - started


def one_round(space: Space, seed: int, folder: Path, logits: Any, spent: dict[str, Spent]) -> dict[str, float]:
    before = {name: clock.seconds for name, clock in spent.items()}
    rng = random.Random(seed)
    for number in range(TRIALS):
        params = space.sample(lambda hole: rng.choice(hole.spread(1000)))
        recipe, place = space.fill(params, seed * TRIALS + number), folder / f"{seed}-{number}"
        trial.untrained(recipe, place)
        trial.start([TrialJob(recipe, number, place, params)], [], logits)
    found = {f"{name}_s": clock.seconds - before[name] for name, clock in spent.items()}
    found["training_s"] = found.pop("start_s") - found["finished_s"]
    return found | {"added": (found["untrained_s"] + found["finished_s"]) / found["training_s"]}


def first_exports(space: Space, folder: Path) -> float:
    started = time.process_time()
    for i, baseline in enumerate(space.baselines()):
        trial.untrained(baseline.recipe, folder / f"baseline-{i}")
    return time.process_time() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.environ["HARNESS_CACHE"] = str(Path(name) / "cache")
        space = load_space(ROOT / "benchmarks" / "spaces" / "digits_batch1.yaml")
        logits = trial.prepare([*teacher_trees(space)], str(Path(name) / "prepared")).logits
        found: dict[str, Any] = {"trials_a_round": TRIALS, "first_exports_s": first_exports(space, Path(name))}
        spent = {part: Spent(part) for part in ("untrained", "start", "finished")}
        rounds: list[dict[str, float]] = []
        for seed in range(ROUNDS):
            rounds.append(one_round(space, seed, Path(name), logits, spent))
            print(seed, rounds[-1], flush=True)
    mean, low, high = mean_interval([r["added"] for r in rounds])
    save("recording", {**found, "added": {"mean": mean, "low_95": low, "high_95": high}, "rounds": rounds})


if __name__ == "__main__":
    main()
