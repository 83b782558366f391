"""Ours against Ray Tune with OptunaSearch, Optuna's own ``optimize`` and random search.

Same task, teacher logits, space and number of trials, on the same cores: digits, or 6,000 images of
Fashion-MNIST. Peers' trials are those of ``plain_trial``. All contenders begin with the same points, our
baselines, which count as trials. The clock runs from the first proposal (start-up stands apart).
Afterwards, outside the clock, the files that were ever on a contender's front are scored on test and
timed by one lab in one session, and the hypervolume of the front (chosen by the contender's own
validation values and latencies) is taken on those.

    python benchmarks/engine_vs_peers.py digits|fashion [SEEDS [TRIALS]]
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution

from benchmarks.report import ROOT, save, spread
from harness.deploy.latency import Lab
from harness.intervals import mean_interval
from harness.pareto import Front, log_hypervolume
from harness.search.driver import search, teacher_trees
from harness.search.study import distribution, to_optuna
from harness.space import Hole, Space, load_space

METRICS = ("accuracy", "size_bytes", "latency_ms")
DIRECTIONS = ("maximize", "minimize", "minimize")
SHARES = (0.25, 0.5, 1.0)  # of the budget
SPACES = {
    "digits": ("digits.yaml", [], 5, 60),
    "fashion": ("fashion_convnet.yaml", ["task.train_limit=6000"], 3, 20),
}  # file, overrides, seeds, trials


@dataclass(frozen=True)
class Row:
    """A told trial: seconds since the first proposal, the contender's own values (none where it was
    stopped), its file."""

    told_s: float
    values: tuple[float, float, float] | None
    path: Path


def suggest(trial: Any, hole: Hole) -> Any:
    """A hole's code from an Optuna trial, as our own search asks for it."""
    match distribution(hole):
        case FloatDistribution() as d:
            return trial.suggest_float(hole.internal, d.low, d.high, log=d.log, step=d.step)
        case CategoricalDistribution() as d:
            return hole.labels.index(trial.suggest_categorical(hole.internal, d.choices))
        case d:
            return trial.suggest_int(hole.internal, d.low, d.high, log=d.log, step=d.step)


def first_points(space: Space) -> list[dict[str, Any]]:
    """Our baselines, as the peers take points to begin with."""
    holes = {hole.internal: hole for hole in space.holes}
    known = [b.params for b in space.baselines() if b.params is not None]
    return [{name: to_optuna(holes[name], code) for name, code in params.items()} for params in known]


def ours(space: Space, folder: Path, trials: int, logits: Any) -> tuple[list[Row], float]:
    started = time.time()
    search(space, folder / "study", trials=trials, progress=False)
    rows = []
    for line in csv.DictReader((folder / "study" / "told.csv").open()):
        place = folder / "study" / "trials" / f"{int(line['number']):05d}"
        record = json.loads((place / "record.json").read_bytes())
        values = None
        if record["status"] == "ok":
            accuracy, size, latency = (statistics.median(record["measurements"][n]["values"]) for n in METRICS)
            values = (accuracy, size, latency)
        rows.append(Row(float(line["elapsed_s"]), values, place / "model.onnx"))
    return rows, time.time() - started - max(r.told_s for r in rows)


def _rows(folder: Path, first: float) -> list[Row]:
    found = []
    for path in folder.glob("*/row.json"):
        row = json.loads(path.read_bytes())
        values = (row["accuracy"], row["size_bytes"], row["latency_ms"])
        found.append(Row(row["told"] - first, values, path.parent / "model.onnx"))
    return sorted(found, key=lambda r: r.told_s)


@dataclass(frozen=True)
class Define:
    """The space as OptunaSearch takes it: called with an Optuna trial, it gives the trial's config. Ray
    pickles it, so the time of the first call goes into a file."""

    space: Space
    clock: Path

    def __call__(self, trial: Any) -> dict[str, Any]:
        if not self.clock.exists():
            self.clock.write_text(str(time.time()))
        params = self.space.sample(lambda hole: suggest(trial, hole))
        return {"tree": json.dumps(self.space.fill(params, trial.number).to_tree()), "n": trial.number}


def ray_tune(space: Space, folder: Path, trials: int, logits: Any) -> tuple[list[Row], float]:
    """As Ray Tune's documentation sets OptunaSearch up: a define-by-run space, one CPU a trial."""
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
            num_samples=trials,
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    )
    tuner.fit()
    ray.shutdown()
    rows = _rows(folder, float((folder / "first").read_text()))
    return rows, time.time() - started - max(r.told_s for r in rows)


def with_optuna(make: Callable[[int], Any]) -> Callable[..., tuple[list[Row], float]]:
    def contender(space: Space, folder: Path, trials: int, logits: Any) -> tuple[list[Row], float]:
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

        study.optimize(objective, trials, n_jobs=len(os.sched_getaffinity(0)))
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


def fronts(rows: list[Row]) -> list[list[int]]:
    """The members of the front after each told trial."""
    front, found = Front(DIRECTIONS), []
    for i, row in enumerate(rows):
        if row.values is not None:
            front.add(i, row.values)
        found.append(list(front.numbers))
    return found


def score(space: Space, rows: dict[str, list[Row]]) -> dict[Path, tuple[float, float, float]]:
    """Test accuracy, bytes and the lab's latency of every file that was ever on a front."""
    from harness.scoring import data_of, file_metrics

    data = data_of(space.fill(space.sample(lambda hole: hole.default)))
    paths = sorted({own[i].path for own in rows.values() for front in fronts(own) for i in front})
    with Lab() as lab:
        timed = lab.measure(paths, None, budget_s=0.2)
    return {
        p: (file_metrics(p, data, "test")["accuracy"], float(p.stat().st_size), m.median)
        for p, m in zip(paths, timed, strict=True)
    }


def curve(rows: list[Row], scores: dict[Path, Any], reference: tuple[float, float, float]) -> list[tuple[float, float]]:
    """(seconds, hypervolume) after each told trial."""
    found = []
    for row, members in zip(rows, fronts(rows), strict=True):
        values = np.array([scores[rows[i].path] for i in members]).reshape(-1, len(METRICS))
        found.append((row.told_s, log_hypervolume(values, dict(zip(METRICS, reference, strict=True)), DIRECTIONS)))
    return found


def one_seed(task: str, seed: int, trials: int) -> dict[str, Any]:
    from harness import trial as trial_module

    file, overrides, _, _ = SPACES[task]
    mine = [*overrides, f"search.seed={seed}", "search.stop=dominated"]
    space = load_space(ROOT / "search_spaces" / file, overrides=mine)
    folder = Path(tempfile.mkdtemp())
    logits = trial_module.prepare(teacher_trees(space), str(folder / "prepared"))["logits"]
    rows, startup = {}, {}
    names = list(CONTENDERS)
    for name in names[seed % len(names) :] + names[: seed % len(names)]:
        (folder / name).mkdir()
        rows[name], startup[name] = CONTENDERS[name](space, folder / name, trials, logits)
        print(seed, name, len(rows[name]), round(rows[name][-1].told_s, 1), flush=True)
    scores = score(space, rows)
    widest = rows["ours"][0]  # the first baseline: the widest fp32 student
    with Lab() as lab:
        latency = lab.measure([widest.path], None, budget_s=0.2)[0].median
    reference = (0.1, float(widest.path.stat().st_size), 1.5 * latency)
    curves = {name: curve(own, scores, reference) for name, own in rows.items()}
    shutil.rmtree(folder, ignore_errors=True)
    return {"seed": seed, "startup_s": startup, "curves": curves}


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    target = {s["seed"]: s["curves"]["ray_tune_optunasearch"][-1] for s in seeds}
    our_time = {s["seed"]: s["curves"]["ours"][-1][0] for s in seeds}
    found: dict[str, Any] = {}
    for name in CONTENDERS:
        curves = [(s["seed"], s["curves"][name]) for s in seeds]
        reached = [next((t for t, v in c if v >= target[n][1]), math.inf) for n, c in curves]
        ratios = [r / target[n][0] for r, (n, _) in zip(reached, curves, strict=True)]
        ours_minus = {
            share: [_after(s["curves"]["ours"], share) - _after(s["curves"][name], share) for s in seeds]
            for share in SHARES
        }
        found[name] = {
            "hypervolume_at": {str(share): mean_interval([_after(c, share) for _, c in curves]) for share in SHARES},
            "ours_minus_it_at": {str(share): mean_interval(v) for share, v in ours_minus.items()},  # pairs of seeds
            "hypervolume_at_our_time": {
                str(share): mean_interval([_at(c, share * our_time[n]) for n, c in curves]) for share in SHARES
            },
            "total_s": spread([c[-1][0] for _, c in curves]),
            "time_to_ray_tunes_final_hypervolume_over_its_time": statistics.median(ratios),
            "reached_it": sum(r < math.inf for r in reached),
        }
    return found


def _after(found: list[tuple[float, float]], share: float) -> float:
    """The hypervolume after a share of the trials."""
    return found[max(0, round(share * len(found)) - 1)][1]


def _at(found: list[tuple[float, float]], seconds: float) -> float:
    """The hypervolume after some seconds."""
    return next((volume for told_s, volume in reversed(found) if told_s <= seconds), 0.0)


def main() -> None:
    task, *given = sys.argv[1:]
    seeds, trials = (int(g) if g else d for g, d in zip_longest(given, SPACES[task][2:]))
    done = []
    for seed in range(seeds):  # saved after each, so that an interrupted run leaves what it found
        done.append(one_seed(task, seed, trials))
        save(f"engine_vs_peers_{task}", {"trials": trials, "summary": summary(done), "runs": done})


if __name__ == "__main__":
    main()
