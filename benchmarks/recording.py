"""What it costs that every trial ends in a file: exporting, scoring, auditing and recording.

Random searches of the digits space, so that all of them run the same recipes: whole trials (with the
export of the untrained student that its constraint on latency asks for), and trials that train and
stop there, in turn. Clock from the first ask to the last tell, without the latency lab (which stands
apart); target: the file adds <= 20 % to the wall time.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.overhead import Timed
from benchmarks.report import ROOT, save
from harness.search import driver, loop
from harness.search.latencies import Latencies
from harness.space import load_space

ROUNDS, TRIALS = 3, 60
MODULES = {"whole": "harness.trial", "train_only": "benchmarks.train_only_trial"}


def search(module: str, seed: int, looping: Timed, lab: Timed) -> dict[str, float]:
    """Seconds of one search between the first ask and the last tell, and of its lab."""
    with tempfile.TemporaryDirectory() as name:
        text = (ROOT / "search_spaces" / "digits.yaml").read_text()
        path = Path(name) / "space.yaml"
        text = text.replace("sampler: tpe, seed: 0", f"sampler: random, seed: {seed}")
        if module != MODULES["whole"]:  # no file, so no constraint on it: the untrained exports are of the whole
            text = text.replace("constraints: {latency_ms: {max: 5}}", "")
        path.write_text(text)
        looping.seconds.clear()
        lab.seconds.clear()
        outcome = driver.search(load_space(path), Path(name) / "study", trials=TRIALS, progress=False, module=module)
    return {"trials": outcome.finished, "loop_s": sum(looping.seconds), "lab_s": sum(lab.seconds)}


def main() -> None:
    looping, lab = Timed(driver, "work_through"), Timed(loop, "measure")
    Latencies.teacher = lambda *_: None  # it is timed beside a student's file, and train_only leaves none
    rounds: list[dict[str, Any]] = []
    for seed in range(ROUNDS):
        rows = {name: search(module, seed, looping, lab) for name, module in MODULES.items()}
        added = (rows["whole"]["loop_s"] - rows["whole"]["lab_s"]) / rows["train_only"]["loop_s"] - 1
        rounds.append({**rows, "added": added})
    save("recording", {"added_median": statistics.median(r["added"] for r in rounds), "rounds": rounds})


if __name__ == "__main__":
    main()
