"""Early stopping replayed: epochs saved, hypervolume lost, optimal trials wrongly stopped.

Six studies of 240 random trials of the digits space are recorded once without stopping, with the accuracy after every
epoch. Every rule then replays the same curves in 100 random orders of each study (baselines first, as in a search), one
trial after the other. Two studies and four studies are also replayed as one, because a rule that learns has more
curves in a longer search. At the end a rule may resume stopped trials from the epoch at which they stopped.

Optimal trials are those on the front of all trials, with latencies that differ by less than the noise of their
measurement taken as equal. Clearly optimal trials are those still on the front if every other trial's accuracy is one
standard error higher: with 360 samples, one image decides many places. Accuracies are validation accuracies at the
rungs, and the exported file's at the end. One file of each structure of all six studies is timed in one session,
because the machine ran the searches at six different speeds.

The rule's constants were chosen on the studies of seeds 0 to 3; seeds 4 and 5 are held out. ``until`` and the two
confidences were chosen on all six.

    python benchmarks/stopping.py [--record | --retime]     # record the studies again | time their files again
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one study per core
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.report import ROOT, save, spread
from harness.measure.lab import Lab
from harness.search.dominated import Dominated, DominatedConfig
from harness.search.driver import search
from harness.search.moasha import Moasha
from harness.search.rules import LATENCY_TIE
from harness.search.rungs import NEVER_STOPPED, Curve, Never, Rule, never_stopped
from harness.space.space import Space, load_space
from harness.stats.intervals import mean_interval
from harness.stats.pareto import hypervolume
from harness.trial.run import untrained

SPACE = "benchmarks/spaces/digits_batch1.yaml"
TRIALS, ORDERS = 240, 100
LAB_S = 1.0  # timed seconds of a structure
STUDIES = {  # seeds of the recorded studies; those in one inner list are replayed as one study
    "chosen_on": [[0], [1], [2], [3]],
    "chosen_on, two as one": [[0, 1], [2, 3]],
    "chosen_on, four as one": [[0, 1, 2, 3]],
    "held_out": [[4], [5]],
    "held_out, two as one": [[4, 5]],
}
ALL = {"all": ("chosen_on", "held_out"), "all, two as one": ("chosen_on, two as one", "held_out, two as one")}
CURVES = ROOT / "results" / "benchmarks" / "stopping_curves"
SAMPLES = 360  # validation samples of the digits task
DIRECTIONS = ("maximize", "minimize", "minimize")


class Watch(Never):
    """Takes the accuracy after every epoch and stops nothing."""

    def rungs(self, total: int) -> dict[int, int]:
        return {epoch: epoch for epoch in range(1, total)}


def record(space: str, trials: int, seed: int) -> list[dict[str, Any]]:
    """Run one search of random trials; returns each with its costs and its accuracy after every epoch."""
    loaded = load_space(ROOT / space, overrides=[f"search.seed={seed}", "search.sampler=random", "search.lanes=1"])
    with tempfile.TemporaryDirectory() as folder:
        search(loaded, Path(folder) / "study", trials=trials, make_rule=lambda _: Watch())
        paths = sorted((Path(folder) / "study" / "trials").glob("*/record.json"))
        records = [json.loads(p.read_bytes()) for p in paths]
    return [
        row(r) | {"places": loaded.places(r["params"]), "params": r["params"]} for r in records if r["status"] == "ok"
    ]


def retime(space: Space, studies: list[list[dict[str, Any]]]) -> None:
    """Measure the latency of every row in one session: one file of each structure, in turn with the widest fp32
    student's file."""
    keys, files = {}, {}
    with tempfile.TemporaryDirectory() as folder, Lab(timeout_s=600) as lab:
        for i, r in enumerate(r for study in studies for r in study):
            place = Path(folder) / str(i)
            place.mkdir()
            made = untrained(space.fill(r["params"]), place)
            keys[id(r)] = made.structure
            files.setdefault(made.structure, place / made.file)
        timed = lab.measure(list(files.values()), next(iter(files.values())), budget_s=LAB_S)
    known = {structure: one.median for structure, one in zip(files, timed, strict=True)}
    for r in (r for study in studies for r in study):
        r["latency_ms"] = known[keys[id(r)]]
    print(f"{len(files)} structures timed")


def row(record: dict[str, Any]) -> dict[str, Any]:
    def value(name: str) -> float:
        return statistics.median(record["measurements"][name]["values"])

    return {
        "number": record["number"],
        "baseline": record["baseline"],
        "epochs": record["recipe"]["train"]["epochs"],
        "curve": [round(a, 6) for _, a in sorted((int(e), a) for e, a in record["diagnostics"]["rungs"].items())],
        "accuracy": value("accuracy"),
        "size_bytes": value("size_bytes"),
        "latency_ms": value("latency_ms"),
    }


def volume(rows: list[dict[str, Any]], reference: dict[str, Any]) -> float:
    """The hypervolume as a search computes it: costs in logarithms; reference point: chance accuracy, the widest fp32
    student's bytes and 1.5 times its latency."""
    values = [[r["accuracy"], math.log(r["size_bytes"]), math.log(r["latency_ms"])] for r in rows]
    point = [0.1, math.log(reference["size_bytes"]), math.log(1.5 * reference["latency_ms"])]
    return hypervolume(np.array(values), point, DIRECTIONS)


def replay(rule: Rule, rows: list[dict[str, Any]], seed: int) -> tuple[set[int], int]:
    """Replay all rows, then the trials that the rule resumes; returns the finished trials and the epochs trained."""
    reached: dict[int, int] = {}  # epochs trained so far
    known = {r["number"]: r for r in rows}

    def go(number: int, curve: Curve) -> None:
        r, stopped = known[number], 0
        rule.begin(number, curve)
        for epoch, rung in rule.rungs(r["epochs"]).items():
            if epoch > reached.get(number, 0) and rule.decide(number, rung, r["curve"][epoch - 1]):
                stopped = epoch
                break
        reached[number] = stopped or r["epochs"]
        rule.learn(number, curve, None if stopped else r["accuracy"], not stopped)

    for r in rows:
        exempt = 1.0 if r["baseline"] else NEVER_STOPPED * never_stopped(seed, r["number"])
        go(r["number"], Curve((r["size_bytes"], r["latency_ms"]), exempt, tuple(r["places"])))
    while due := rule.due():
        curve = rule.resume(due[0])
        assert curve is not None
        go(due[0], curve)
    return {n for n, epochs in reached.items() if epochs == known[n]["epochs"]}, sum(reached.values())


def read(seeds: list[int]) -> list[dict[str, Any]]:
    """The trials of these studies joined to one study, with the baselines of the first."""
    studies = [json.loads((CURVES / f"seed_{seed}.json").read_bytes()) for seed in seeds]
    rows = studies[0] + [r for study in studies[1:] for r in study if not r["baseline"]]
    return [r | {"number": number} for number, r in enumerate(rows)]


def judge(rule: str, seeds: list[int], orders: int) -> dict[str, Any]:
    """The results of a rule over all orders of one study; stopped trials are counted over all orders."""
    rows = read(seeds)
    baselines, others = [r for r in rows if r["baseline"]], [r for r in rows if not r["baseline"]]
    reference = next(r for r in baselines if r["baseline"] == "widest-fp32")
    optimal, clearly = best_of(rows), best_of(rows, errors=1.0)
    whole, total = volume(rows, reference), sum(r["epochs"] for r in rows)
    found: dict[str, Any] = {"saved": [], "lost": [], "stopped": 0, "clearly_stopped": 0}
    for order in range(orders):
        shuffled = [*baselines, *random.Random(order).sample(others, len(others))]
        finished, epochs = replay(RULES[rule](), shuffled, order)
        found["saved"].append(1 - epochs / total)
        found["lost"].append(1 - volume([r for r in rows if r["number"] in finished], reference) / whole)
        found["stopped"] += len(optimal - finished)
        found["clearly_stopped"] += len(clearly - finished)
    return found | {"trials": len(rows), "optimal": len(optimal), "clearly_optimal": len(clearly)}


def pooled(studies: list[dict[str, Any]], orders: int) -> dict[str, Any]:
    """The results of several studies together."""
    saved, lost = ([v for s in studies for v in s[name]] for name in ("saved", "lost"))
    total = {
        k: sum(s[k] for s in studies) for k in ("optimal", "clearly_optimal", "stopped", "clearly_stopped", "trials")
    }
    by_study = [s["stopped"] / (s["optimal"] * orders) for s in studies]
    return {
        "studies": len(studies),
        "trials": total["trials"],
        "epochs_saved": spread(saved),
        "epochs_saved_pooled": statistics.mean(saved),
        "hypervolume_lost": spread(lost),
        "hypervolume_lost_pooled": statistics.mean(lost),
        "optimal": total["optimal"],
        "optimal_wrongly_stopped": total["stopped"] / (total["optimal"] * orders),
        "optimal_wrongly_stopped_by_study": by_study,
        "optimal_wrongly_stopped_mean_of_studies": mean_interval(by_study) if len(by_study) > 1 else None,
        "clearly_optimal": total["clearly_optimal"],
        "clearly_optimal_wrongly_stopped": total["clearly_stopped"] / (total["clearly_optimal"] * orders),
    }


RULES = {"dominated": lambda: Dominated(DominatedConfig((0.0, LATENCY_TIE))), "moasha": Moasha}


def best_of(rows: list[dict[str, Any]], errors: float = 0.0) -> set[int]:
    """The nondominated trials, with latencies within LATENCY_TIE of each other taken as equal, so that a measured lead
    of 0.1 % makes no trial optimal. The accuracies of all other trials are raised by ``errors`` standard errors of the
    trial's accuracy."""
    a, s, t = (np.array([r[name] for r in rows]) for name in ("accuracy", "size_bytes", "latency_ms"))
    numbers, found = np.array([r["number"] for r in rows]), set()
    for r, ai, si, ti in zip(rows, a, s, t, strict=True):
        error = errors * math.sqrt(ai * (1 - ai) / SAMPLES)
        as_good = (a >= ai - error) & (s <= si) & (t <= ti * (1 + LATENCY_TIE))
        better = (a > ai - error) | (s < si) | (t < ti * (1 - LATENCY_TIE))
        others = numbers != r["number"]
        if not (others & as_good & better).any():
            found.add(r["number"])
    return found


def recorded() -> None:
    """Record the studies if that is requested or they do not exist."""
    CURVES.mkdir(exist_ok=True)
    paths = {seed: CURVES / f"seed_{seed}.json" for part in STUDIES.values() for seeds in part for seed in seeds}
    fresh = "--record" in sys.argv or not all(path.exists() for path in paths.values())
    if fresh:
        studies = [record(SPACE, TRIALS, seed) for seed in paths]
    elif "--retime" in sys.argv:
        studies = [json.loads(path.read_bytes()) for path in paths.values()]
    else:
        return
    retime(load_space(ROOT / SPACE), studies)
    for path, rows in zip(paths.values(), studies, strict=True):
        path.write_text(json.dumps(rows) + "\n")


def main() -> None:
    recorded()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        jobs = {
            (part, rule): [pool.submit(judge, rule, seeds, ORDERS) for seeds in studies]
            for part, studies in sorted(STUDIES.items(), key=lambda item: -len(item[1][0]))  # the long ones first
            for rule in RULES
        }
        judged = {place: [job.result() for job in own] for place, own in jobs.items()}
    parts = {part: (part,) for part in STUDIES} | ALL
    found = {
        name: {rule: pooled([j for part in of for j in judged[part, rule]], ORDERS) for rule in RULES}
        for name, of in parts.items()
    }
    save("stopping", {"orders": ORDERS} | found)


if __name__ == "__main__":
    main()
