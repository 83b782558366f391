"""harness against Ray Tune with OptunaSearch, Optuna's ``optimize`` and random search.

All have the same task (digits, or 6,000 images of Fashion-MNIST), teacher logits, space, time and cores. The peers'
trials are those of ``plain_trial``. All start with the same points, harness's baselines: peers run them in a row; the
search of harness with a time budget runs the width sweep in every second turn. The clock starts at the first proposal;
start-up is reported separately. Afterwards one lab times one file of each graph in a single session, scaled turn by
turn by the widest fp32 student's file. Thus all fronts use validation accuracy, size and latencies from the same
session; equal graphs have equal latencies; and no contender gains by timing more files. The hypervolume of a front is
computed from its members' test accuracies.

    python benchmarks/engine_vs_peers.py digits|fashion [SEEDS [SECONDS]]
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import onnx
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from ruamel.yaml import YAML

from benchmarks.report import ROOT, save, spread
from harness.export.export import structure_key
from harness.measure.lab import Lab
from harness.search.driver import search
from harness.search.parameters import distribution, to_optuna
from harness.search.preflight import teacher_trees
from harness.space.distributions import Hole
from harness.space.space import Space, load_space
from harness.stats.intervals import mean_interval
from harness.stats.pareto import Front, log_hypervolume, reference_point

METRICS = ("accuracy", "size_bytes", "latency_ms")
DIRECTIONS = ("maximize", "minimize", "minimize")
SHARES = (0.25, 0.5, 1.0)  # of the budget
SPACES = {
    "digits": ("digits.yaml", [], 5, 100),
    "fashion": ("fashion_convnet.yaml", ["task.train_limit=6000"], 3, 300),
}  # file, overrides, seeds, seconds
LAB_S = 0.25  # timed seconds of a graph
# Seconds added to harness's budget for its start-up, because its budget starts with the command and the clock with the
# first proposal. If start-up takes longer, harness has less time than its peers.
START_UP_S = 20


@dataclass(frozen=True)
class Row:
    """A reported trial: seconds since the first proposal, validation accuracy (None if it was stopped),
    its file."""

    told_s: float
    accuracy: float | None
    path: Path
    baseline: bool = False


def suggest(trial: Any, hole: Hole) -> Any:
    """A hole's code from an Optuna trial, requested as harness's search does."""
    match distribution(hole):
        case FloatDistribution() as d:
            return trial.suggest_float(hole.internal, d.low, d.high, log=d.log, step=d.step)
        case CategoricalDistribution() as d:
            return hole.labels.index(trial.suggest_categorical(hole.internal, d.choices))
        case IntDistribution() as d:
            return trial.suggest_int(hole.internal, d.low, d.high, log=d.log, step=d.step)


def first_points(space: Space) -> list[dict[str, Any]]:
    """harness's baselines as starting points for the peers."""
    holes = {hole.internal: hole for hole in space.holes}
    known = [b.params for b in space.baselines() if b.params is not None]
    return [{name: to_optuna(holes[name], code) for name, code in params.items()} for params in known]


def ours(space: Space, folder: Path, seconds: float, logits: Any) -> tuple[list[Row], float]:
    started = time.time()
    search(space, folder / "study", progress=False)
    rows = []
    for line in csv.DictReader((folder / "study" / "told.csv").open()):
        place = folder / "study" / "trials" / f"{int(line['number']):05d}"
        record = json.loads((place / "record.json").read_bytes())
        accuracy = record["measurements"]["accuracy"]["values"][0] if record.status == "ok" else None
        rows.append(Row(float(line["elapsed_s"]), accuracy, place / "model.onnx", bool(record["baseline"])))
    return rows, time.time() - started - max(r.told_s for r in rows)


def _rows(folder: Path, first: float) -> list[Row]:
    found = []
    for path in folder.glob("*/row.json"):
        row = json.loads(path.read_bytes())
        found.append(Row(row["told"] - first, row["accuracy"], path.parent / "model.onnx"))
    return sorted(found, key=lambda r: r.told_s)


@dataclass(frozen=True)
class Define:
    """The space as a define-by-run function for OptunaSearch: called with an Optuna trial, it returns the config. Ray
    pickles it, so it writes the time of the first call to a file."""

    space: Space
    clock: Path

    def __call__(self, trial: Any) -> dict[str, Any]:
        if not self.clock.exists():
            self.clock.write_text(str(time.time()))
        params = self.space.sample(lambda hole: suggest(trial, hole))
        return {"tree": json.dumps(self.space.fill(params, trial.number).to_tree()), "n": trial.number}


def ray_tune(space: Space, folder: Path, seconds: float, logits: Any) -> tuple[list[Row], float]:
    """OptunaSearch set up as in Ray Tune's documentation: a define-by-run space, one CPU per trial."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def objective(config: dict[str, Any]) -> None:
        from benchmarks.plain_trial import plain_trial

        row = plain_trial(json.loads(config["tree"]), logits, folder / str(config["n"]))
        tune.report({n: row[n] for n in METRICS})

    started = time.time()
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=40,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}},
    )
    sampler = optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=space.settings.seed)
    tuner = tune.Tuner(
        tune.with_resources(objective, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(
                space=Define(space, folder / "first"),
                metric=list(METRICS),
                mode=["max", "min", "min"],
                sampler=sampler,
                points_to_evaluate=first_points(space),
            ),
            num_samples=-1,
            time_budget_s=seconds + (time.time() - started),
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    )
    tuner.fit()
    ray.shutdown()
    rows = _rows(folder, float((folder / "first").read_text()))
    return rows, time.time() - started - max(r.told_s for r in rows)


def with_optuna(make: Callable[[int], Any]) -> Callable[..., tuple[list[Row], float]]:
    def contender(space: Space, folder: Path, seconds: float, logits: Any) -> tuple[list[Row], float]:
        from benchmarks.plain_trial import plain_trial

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(directions=list(DIRECTIONS), sampler=make(space.settings.seed))
        for point in first_points(space):
            study.enqueue_trial(point)
        first = time.time()

        def objective(trial: Any) -> tuple[float, float, float]:
            recipe = space.fill(space.sample(lambda hole: suggest(trial, hole)), trial.number)
            row = plain_trial(recipe.to_tree(), logits, folder / str(trial.number))
            return row["accuracy"], row["size_bytes"], row["latency_ms"]

        study.optimize(objective, timeout=seconds, n_jobs=len(os.sched_getaffinity(0)))
        return _rows(folder, first), 0.0

    return contender


CONTENDERS = {
    "ours": ours,
    "ray_tune_optunasearch": ray_tune,
    "optuna_optimize": with_optuna(
        lambda seed: optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
    ),
    "random": with_optuna(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
}


@dataclass(frozen=True)
class Scored:
    """A reported trial with the values for the comparison: validation for the front, test for its hypervolume."""

    told_s: float
    validation: tuple[float, float, float] | None
    test: tuple[float, float, float] | None = None


def latencies_ms(paths: list[Path], reference: Path) -> dict[Path, float]:
    """The latency of each file's graph, timed once beside the reference's."""
    graphs = {path: structure_key(onnx.load(path)) for path in paths}
    first = {graph: path for path, graph in reversed(graphs.items())}
    with Lab(timeout_s=600) as lab:
        timed = lab.measure(list(first.values()), reference, budget_s=LAB_S)
    known = {graph: one.median for graph, one in zip(first, timed, strict=True)}
    return {path: known[graph] for path, graph in graphs.items()}


def scored(space: Space, rows: dict[str, list[Row]]) -> dict[str, list[Scored]]:
    """All contenders' trials with the lab's latencies, and test accuracies for those that were ever on a front."""
    from harness.trial.score import data_of, file_metrics

    data = data_of(space.fill(space.sample(lambda hole: hole.default)))
    paths = sorted({row.path for own in rows.values() for row in own if row.accuracy is not None})
    timed = latencies_ms(paths, next(row.path for row in rows["ours"] if _is_widest(row)))
    found = {}
    for name, own in rows.items():
        told = []
        for row in own:
            costs = (float(row.path.stat().st_size), timed[row.path]) if row.accuracy is not None else None
            told.append(Scored(row.told_s, None if costs is None else (row.accuracy or 0.0, *costs)))
        ever = {i for members in fronts(told) for i in members}
        found[name] = [
            replace(s, test=(file_metrics(own[i].path, data, "test")["accuracy"], *s.validation[1:]))
            if i in ever and s.validation is not None
            else s
            for i, s in enumerate(told)
        ]
    return found


def fronts(told: list[Scored]) -> list[list[int]]:
    """The members of the front after each reported trial."""
    front, found = Front(DIRECTIONS), []
    for i, row in enumerate(told):
        if row.validation is not None:
            front.add(i, row.validation)
        found.append(list(front.numbers))
    return found


def curve(told: list[Scored], reference: tuple[float, ...]) -> list[tuple[float, float]]:
    """(seconds, hypervolume) after each reported trial."""
    found = []
    for row, members in zip(told, fronts(told), strict=True):
        values = np.array([told[i].test for i in members]).reshape(-1, len(METRICS))
        found.append((row.told_s, log_hypervolume(values, dict(zip(METRICS, reference, strict=True)), DIRECTIONS)))
    return found


def _is_widest(row: Row) -> bool:
    """Whether it is harness's trial 0, the widest fp32 student."""
    return row.path.parent.name == f"{0:05d}"


def reference_of(rows: dict[str, list[Row]], told: dict[str, list[Scored]]) -> tuple[float, ...]:
    """Chance accuracy, and 1.5 times the largest costs of harness's baselines and all fronts, so that all
    these points contribute (:func:`harness.stats.pareto.reference_point`)."""
    counted = [s for row, s in zip(rows["ours"], told["ours"], strict=True) if row.baseline]
    counted += [own[i] for own in told.values() for i in fronts(own)[-1]]
    values = np.array([v for s in counted for v in (s.validation, s.test) if v is not None])
    return tuple(reference_point(values, METRICS, DIRECTIONS, {"accuracy": 0.1}).values())


def one_seed(task: str, seed: int, seconds: float) -> dict[str, Any]:
    from harness.trial import run as trial_module

    file, overrides, _, _ = SPACES[task]
    folder = Path(tempfile.mkdtemp())
    tree = YAML(typ="safe").load(ROOT / "search_spaces" / file)
    tree["search"] = {"time_s": seconds + START_UP_S, "seed": seed, "stop": "dominated", "sampler": "tpe"}
    (folder / file).write_text(json.dumps(tree))
    space = load_space(folder / file, overrides=overrides)
    logits = trial_module.prepare(teacher_trees(space), str(folder / "prepared")).logits
    rows, startup = {}, {}
    names = list(CONTENDERS)
    for name in names[seed % len(names) :] + names[: seed % len(names)]:
        (folder / name).mkdir()
        found, startup[name] = CONTENDERS[name](space, folder / name, seconds, logits)
        rows[name] = [row for row in found if row.told_s <= seconds]
        print(seed, name, len(rows[name]), round(rows[name][-1].told_s, 1), flush=True)
    told = scored(space, rows)
    reference = reference_of(rows, told)
    curves = {name: curve(own, reference) for name, own in told.items()}
    shutil.rmtree(folder, ignore_errors=True)
    return {"seed": seed, "startup_s": startup, "trials": {n: len(r) for n, r in rows.items()}, "curves": curves}


def summary(seeds: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    fewest = min(len(c) for s in seeds for c in s["curves"].values())
    goal = {s["seed"]: s["curves"]["ray_tune_optunasearch"][-1][1] for s in seeds}
    found: dict[str, Any] = {}
    for name in CONTENDERS:
        pairs = [(s["curves"]["ours"], s["curves"][name]) for s in seeds]
        reached = [next((t for t, v in s["curves"][name] if v >= goal[s["seed"]]), math.inf) for s in seeds]
        at = {share: [(_at(a, share * seconds), _at(b, share * seconds)) for a, b in pairs] for share in SHARES}
        found[name] = {
            "trials": spread([float(s["trials"][name]) for s in seeds]),
            "hypervolume_at_share_of_time": {str(s): mean_interval([b for _, b in v]) for s, v in at.items()},
            "ours_minus_it": {str(s): mean_interval([a - b for a, b in v]) for s, v in at.items()},  # pairs of seeds
            f"hypervolume_after_{fewest}_trials": mean_interval([b[fewest - 1][1] for _, b in pairs]),
            "time_to_ray_tunes_final_hypervolume_over_the_budget": [r / seconds for r in reached],
        }
    return found


def _at(found: list[tuple[float, float]], seconds: float) -> float:
    """The hypervolume after some seconds."""
    return next((volume for told_s, volume in reversed(found) if told_s <= seconds), 0.0)


def main() -> None:
    task, *given = sys.argv[1:]
    seeds, seconds = (int(g) if g else d for g, d in zip_longest(given, SPACES[task][2:]))
    done = []
    for seed in range(seeds):  # save after each seed, so that an interrupted run keeps its results
        done.append(one_seed(task, seed, seconds))
        save(f"engine_vs_peers_{task}", {"seconds": seconds, "summary": summary(done, seconds), "runs": done})


if __name__ == "__main__":
    main()
