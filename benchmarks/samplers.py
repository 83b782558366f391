"""Samplers on a model of the digits space: hypervolumes after 10 to 240 trials, over many seeds.

The model is an ensemble of trees fitted to the 1,440 recorded trials of ``stopping_curves`` (accuracy as a logit,
bytes and latency as logarithms). Each study begins with the baselines and, like a search on two cores, has six trials
open at a time (three groups if lanes share a structure). The sampler gets accuracies with the noise of 360 validation
samples; hypervolumes use the true values of the front. The benchmark compares samplers; its accuracies are not
real ones.

    python benchmarks/samplers.py [CONTENDER ...]    # run these, and keep the committed results of the others
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import optuna
from sklearn.ensemble import ExtraTreesRegressor

from benchmarks.engine_vs_peers import DIRECTIONS, METRICS, first_points, suggest
from benchmarks.report import ROOT, save
from harness.search.first_trials import SPREAD
from harness.search.lane_groups import in_lanes
from harness.search.parameters import to_optuna
from harness.search.samplers import Seen, make_sampler, recent
from harness.space.space import Space, load_space
from harness.space.starting_points import spread_out, starting_points
from harness.stats.pareto import Front, log_hypervolume

OPEN = 6
SAMPLES = 360
AT = (10, 20, 30, 60, 120, 240)


def ours(seed: int, seen: Seen) -> optuna.samplers.BaseSampler:
    overrides = ["search.sampler=tpe", f"search.seed={seed}"]
    return make_sampler(load_space(ROOT / "benchmarks" / "spaces" / "digits_batch1.yaml", overrides=overrides), 0, seen)


@dataclass(frozen=True)
class Contender:
    """A sampler and its use: whether the ``SPREAD`` points come first, the number of trials of one structure side
    by side, the number of trials per study (at most), and the number of studies (seeds)."""

    make: Callable[[int, Seen], optuna.samplers.BaseSampler]
    first: Callable[..., list[dict[str, Any]]] = lambda *_: []
    lanes: int = 1
    trials: int = max(AT)
    seeds: int = 16


CONTENDERS = {
    "ours: tpe": Contender(ours, starting_points),
    "tpe, all points spread out": Contender(ours, spread_out),
    "tpe, no points spread out": Contender(ours),
    "random": Contender(lambda seed, _: optuna.samplers.RandomSampler(seed=seed)),
    "tpe multivariate group": Contender(
        lambda seed, _: optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    ),
    "nsga2, population 20": Contender(lambda seed, _: optuna.samplers.NSGAIISampler(seed=seed, population_size=20)),
    "ours: tpe, 4 lanes": Contender(ours, starting_points, lanes=4),
    "gp": Contender(lambda seed, _: optuna.samplers.GPSampler(seed=seed), trials=60, seeds=4),  # an ask takes seconds
}


@cache
def model() -> tuple[Space, ExtraTreesRegressor, dict[str, float]]:
    """The space, the fitted trees, and the hypervolume's reference point."""
    paths = sorted((ROOT / "results" / "benchmarks" / "stopping_curves").glob("*.json"))
    rows = [r for path in paths for r in json.loads(path.read_text())]
    right = np.clip([r["accuracy"] for r in rows], 0.05, 0.995)
    costs = [np.log([r[name] for r in rows]) for name in METRICS[1:]]
    trees = ExtraTreesRegressor(300, random_state=0)
    trees.fit([r["places"] for r in rows], np.stack([np.log(right / (1 - right)), *costs], 1))
    widest = next(r for r in rows if r["baseline"] == "widest-fp32")
    reference = {"accuracy": 0.1, "size_bytes": widest["size_bytes"], "latency_ms": 1.5 * widest["latency_ms"]}
    return load_space(ROOT / "benchmarks" / "spaces" / "digits_batch1.yaml"), trees, reference


def true_values(params: Mapping[str, Any]) -> tuple[float, float, float]:
    space, trees, _ = model()
    place = np.array([space.places(params)], np.float32)
    # call the trees directly: for a single point the ensemble's predict takes 18 times as long
    each = [tree.tree_.predict(place)[0, :, 0] for tree in trees.estimators_]
    logit, size, latency = np.mean(each, axis=0)
    return 1 / (1 + math.exp(-logit)), math.exp(size), math.exp(latency)


def proposals(
    found: optuna.Study, spread: Sequence[dict[str, Any]], lanes: int
) -> Iterator[list[tuple[optuna.Trial, dict[str, Any]]]]:
    """Groups of asked trials and their parameters: first the baselines, then groups of a leader and its
    followers. The points in ``spread`` are the first leaders."""
    space, _, _ = model()
    holes = {hole.internal: hole for hole in space.holes}

    def asked() -> tuple[optuna.Trial, dict[str, Any]]:
        trial = found.ask()
        return trial, space.sample(lambda hole: suggest(trial, hole))

    for point in first_points(space):
        found.enqueue_trial(point)
        yield [asked()]
    for params in chain(spread, repeat(None)):
        if params is not None:
            found.enqueue_trial({name: to_optuna(holes[name], code) for name, code in params.items()})
        group = [asked()]
        structure = {n: to_optuna(holes[n], code) for n, code in group[0][1].items() if not in_lanes(holes[n].name)}
        for _ in range(lanes - 1):
            found.enqueue_trial(structure)
            group.append(asked())
        yield group


def study(name: str, seed: int) -> list[float]:
    """True hypervolumes of the observed front after each number of trials in ``AT``."""
    warnings.simplefilter("ignore")  # experimental arguments
    contender = CONTENDERS[name]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    (space, _, reference), noise = model(), np.random.default_rng(seed)
    front, values, volumes = Front(DIRECTIONS), [], []
    waiting: deque[list[tuple[optuna.Trial, dict[str, Any]]]] = deque()  # asked in the order of their numbers
    sampler = contender.make(
        seed, lambda: recent(range(len(values)), front.numbers, [t.number for group in waiting for t, _ in group])
    )
    found = optuna.create_study(directions=list(DIRECTIONS), sampler=sampler)
    groups = proposals(found, contender.first(space.holes, space.sample, SPREAD, seed), contender.lanes)
    waiting += [next(groups) for _ in range(OPEN - 1 if contender.lanes == 1 else OPEN // 2 - 1)]
    while len(values) < contender.trials:
        waiting.append(next(groups))
        for trial, params in waiting.popleft():
            values.append(true_values(params))
            seen = (noise.binomial(SAMPLES, values[-1][0]) / SAMPLES, *values[-1][1:])
            found.tell(trial, list(seen))
            front.add(len(values) - 1, seen)
            if len(values) in AT:
                rows = np.array([values[i] for i in front.numbers])
                volumes.append(log_hypervolume(rows, reference, DIRECTIONS))
    return volumes


def spread_of_mean(found: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.mean(found), "standard_error": statistics.stdev(found) / math.sqrt(len(found))}


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    names = sys.argv[1:] or [*CONTENDERS]
    output = ROOT / "results" / "benchmarks" / "samplers.json"
    figures: dict[str, Any] = json.loads(output.read_text())["figures"] if sys.argv[1:] else {"open_trials": OPEN}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name in names:
            contender, started = CONTENDERS[name], time.monotonic()
            volumes = list(pool.map(study, [name] * contender.seeds, range(contender.seeds)))
            figures[name] = {"seeds": contender.seeds, "wall_s": round(time.monotonic() - started, 1)}
            for at, found in zip(AT, zip(*volumes, strict=True), strict=False):
                figures[name][str(at)] = spread_of_mean(found)
            save("samplers", figures)  # after each, so that an interrupted run keeps its results


if __name__ == "__main__":
    main()
