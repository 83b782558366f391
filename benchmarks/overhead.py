"""Orchestration: time per trial if training takes no time, against Ray Tune + OptunaSearch.

Both run in this process, one after the other, on the same cores, with the same space and sampler settings. The time per
trial is given with and without the sampler's ask and the latency lab, which takes a while to start and times the only
structure once. Ray is started before either clock.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import save, spread
from harness.search import driver, loop
from harness.search.study import Study
from harness.space.space import load_space

TRIALS, TUNE_TRIALS = 200, 20
SPACE = """
task: {name: digits}
student: {model: convnet, width: {choice: [4, 8, 16]}}
train: {epochs: 1, lr: {float: [0.01, 0.3], log: true}}
quant: {bits: {choice: [2, 4, 8, 32]}}
prune: {kind: channel, ratio: {float: [0, 0.9]}}
search: {trials: 200, seed: 0}
"""


class Timed:
    """Replaces a function by one that also sums up its seconds."""

    def __init__(self, owner: Any, name: str):
        self.seconds: list[float] = []
        real = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return real(*args, **options)
            finally:
                self.seconds.append(time.perf_counter() - started)

        setattr(owner, name, timed)


def ours(folder: Path) -> dict[str, Any]:
    """A complete search. The clock runs from the first ask to the last tell. The time before it (starting Ray and the
    workers) and after it (test scores, importances, stopping Ray) is reported separately."""
    (folder / "space.yaml").write_text(SPACE)
    space = load_space(folder / "space.yaml")
    asks, looping, lab = Timed(Study, "propose"), Timed(driver, "work_through"), Timed(loop, "measure")
    started = time.perf_counter()
    outcome = driver.search(space, folder / "study", progress=False, module="benchmarks.trivial_trial")
    wall = time.perf_counter() - started
    times = [json.loads(p.read_bytes()) for p in (folder / "study" / "times").glob("*.json")]
    spent, sampler, measuring = sum(looping.seconds), sum(asks.seconds), sum(lab.seconds)
    n = outcome.finished
    return {
        "trials": n,
        "wall_s": wall,
        "first_ask_to_last_tell_s": spent,
        "sampler_s": sampler,
        "latency_lab_s": measuring,
        "start_and_end_s": wall - spent,
        "ask_ms": spread([1000 * a for a in asks.seconds]),
        "ms_a_trial": 1000 * spent / n,
        "ms_a_trial_without_sampler": 1000 * (spent - sampler) / n,
        "ms_a_trial_without_sampler_and_lab": 1000 * (spent - sampler - measuring) / n,
        "idle_slot_ms": spread(idle(times)),
    }


def idle(times: list[dict[str, float]]) -> list[float]:
    """Milliseconds between the end of a trial and the start of the next on the same worker."""
    gaps = []
    for worker in {t["worker"] for t in times}:
        rows = sorted((t for t in times if t["worker"] == worker), key=lambda t: t["started"])
        gaps += [1000 * (b["started"] - a["ended"]) for a, b in zip(rows, rows[1:], strict=False)]
    return gaps


def tune() -> dict[str, Any]:
    """The same on Ray Tune with OptunaSearch, set up as in its documentation."""
    import optuna
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    if not ray.is_initialized():
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    def objective(config: dict[str, Any]) -> None:
        tune.report({"accuracy": 0.5 + config["lr"], "size_bytes": 1000.0 * config["bits"], "latency_ms": 1.0})

    space = {
        "width": tune.choice([4, 8, 16]),
        "lr": tune.loguniform(0.01, 0.3),
        "bits": tune.choice([2, 4, 8, 32]),
        "ratio": tune.uniform(0, 0.9),
    }
    metrics = ["accuracy", "size_bytes", "latency_ms"]
    search = OptunaSearch(
        metric=metrics,
        mode=["max", "min", "min"],
        sampler=optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=0),
    )
    started = time.perf_counter()
    folder = tempfile.mkdtemp()
    tuner = tune.Tuner(
        tune.with_resources(objective, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(search_alg=search, num_samples=TUNE_TRIALS),
        run_config=tune.RunConfig(storage_path=folder, verbose=0),
    )
    results = tuner.fit()
    wall = time.perf_counter() - started
    shutil.rmtree(folder, ignore_errors=True)
    ray.shutdown()
    return {"trials": len(results), "wall_s": wall, "ms_a_trial": 1000 * wall / len(results)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        mine = ours(Path(folder))
    theirs = tune()
    save(
        "overhead",
        {
            "harness": mine,
            "ray_tune_optunasearch": theirs,
            "ratio_ms_a_trial": theirs["ms_a_trial"] / mine["ms_a_trial"],
        },
    )


if __name__ == "__main__":
    main()
