"""The driver's cost at 100, 1,000 and 10,000 trials: ask, record, tell, front, resume, report, memory.

A study of the digits space is filled with records of synthetic values (no training), through the
driver's bookkeeping. Then a new process resumes it. Measured: the time until it can ask; the medians of
30 asks (tpe), records (written durably, as by workers) and tells (each adds a point to the front); the peak
memory; and the time of the report. Targets: ask <= 50 ms, resume <= 10 s,
memory at 10,000 trials <= 1.5 times that at 100.
"""

from __future__ import annotations

import copy
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import ROOT, save
from harness.files.access import write_bytes_durably
from harness.machine.host import peak_memory_mib
from harness.records import Measurement, TrialRecord, describe_file, write_record
from harness.search import account
from harness.search.budget import Budget
from harness.search.opening import open_search
from harness.search.progress import Progress
from harness.search.rules import rule_of
from harness.search.signals import Stop
from harness.search.state import Search
from harness.search.study import Proposal
from harness.search.tracking import Tracking
from harness.space.space import load_space

SIZES, ASKS = (100, 1_000, 10_000), 30


def opened(folder: Path, sampler: str) -> Search:
    """The driver's state for the study before the first trial of a new or resumed search."""
    space = load_space(ROOT / "benchmarks" / "spaces" / "digits_batch1.yaml", overrides=[f"search.sampler={sampler}"])
    nobody: Any = None
    with Stop() as stop:
        stop.drain()
        shown, chance = Progress("scale", None, False), {"accuracy": 0.1}
        return open_search(space, folder, Budget(None), nobody, nobody, shown, stop, chance, rule_of(space), Tracking())


def record_of(run: Search, proposal: Proposal) -> TrialRecord:
    """A record with values computed from the recipe plus noise: wider students are better and larger."""
    recipe = proposal.recipe
    luck = random.Random(proposal.number)
    size = recipe.student.options["width"] * recipe.quant.options["bits"] * (1.1 - recipe.prune.options["ratio"])
    accuracy = 1 - 1 / (2 + math.log1p(size)) - 0.02 * luck.random()
    folder = run.folder / "trials" / f"{proposal.number:05d}"
    write_bytes_durably(folder / "model.onnx", bytes(100))
    record = TrialRecord(
        number=proposal.number,
        status="ok",
        baseline=proposal.baseline,
        recipe=recipe.to_tree(),
        params=proposal.params,
        seed=recipe.seed,
        artifact=describe_file(folder / "model.onnx", "onnx"),
        structure="none",
        diagnostics={"epochs": 20, "channels_kept": {}},
    ).with_measurements(
        Measurement(name="accuracy", unit="1", values=[accuracy]),
        Measurement(name="size_bytes", unit="B", values=[100 * size]),
        Measurement(name="latency_ms", unit="ms", values=[0.01 + 1e-5 * size * luck.random()]),
    )
    write_record(folder, record)
    return record


def fill(folder: Path, trials: int) -> None:
    run = opened(folder, "random")
    while run.counts.finished < trials:
        proposals = run.study.propose()
        run.trials.propose(proposals)
        [proposal] = proposals
        account.tell(run, record_of(run, proposal))


def visit(folder: Path) -> dict[str, Any]:
    """Resume, ask and tell in a separate process."""
    started = time.perf_counter()
    run = opened(folder, "tpe")
    resume_s = time.perf_counter() - started
    took: dict[str, list[float]] = {"ask_ms": [], "record_ms": [], "tell_ms": [], "front_ms": []}

    def timed(name: str, work: Callable[..., Any], *given: Any) -> Any:
        started = time.perf_counter()
        found = work(*given)
        took[name].append(1000 * (time.perf_counter() - started))
        return found

    for _ in range(ASKS):
        proposals = timed("ask_ms", run.study.propose)
        run.trials.propose(proposals)
        [proposal] = proposals
        record = timed("record_ms", record_of, run, proposal)
        front, values = copy.copy(run.results.front), [record.value(o.name) for o in run.space.objectives]
        timed("front_ms", front.add, proposal.number, values)
        timed("tell_ms", account.tell, run, record)
    return {
        "trials": run.counts.finished,
        "front": len(run.results.front.numbers),
        "resume_s": resume_s,
        **{name: statistics.median(found) for name, found in took.items()},
        "peak_mib": peak_memory_mib(),
    }


def report_s(folder: Path) -> float:
    code = "import sys; from harness.report import load_study, write_report; write_report(load_study(sys.argv[1]))"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True)
    return time.perf_counter() - started


def main() -> None:
    if sys.argv[1:2] == ["visit"]:
        print(json.dumps(visit(Path(sys.argv[2]))))
        return
    rows, filled = [], 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "study"
        for trials in SIZES:
            started = time.perf_counter()
            fill(folder, trials)
            filled = time.perf_counter() - started
            command = [sys.executable, __file__, "visit", str(folder)]
            found = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
            rows.append({**found, "report_s": report_s(folder), "fill_s": filled})
            print(rows[-1], flush=True)
    save("scale", {"sizes": rows, "memory_ratio": rows[-1]["peak_mib"] / rows[0]["peak_mib"]})


if __name__ == "__main__":
    main()
