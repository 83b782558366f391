"""Optuna's storage holds the values of a recipe; its samplers see positions and propose the same as with them."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from harness.errors import SpaceError
from harness.records import read_record
from harness.search.parameters import Positions
from harness.search.samplers import RecentTPE
from harness.space.space import Space, load_space
from tests.searching import run, trials_of

BITS = (2, 3, 4, 6, 8, 32)
SPACE: dict[str, Any] = {
    "task": {"name": "digits"},
    "student": {"model": "convnet", "width": {"choice": [4, 8, 16]}},
    "train": {"lr": {"float": [0.01, 0.3], "log": True}},
    "clip": {"choice": [{"kind": "none"}, {"kind": "norm", "threshold": {"choice": [0.5, 1, 2]}}]},
    "quant": {"bits": {"choice": list(BITS)}},
}
ORDERED = {"student.width": (4, 8, 16), "quant.bits": BITS, "clip[norm].threshold": (0.5, 1, 2)}


def test_the_storage_has_the_recipes_values(box):
    run(box)
    folder = box / "study"
    bits = set()
    for trial in trials_of(folder):
        record = read_record(folder / "trials" / f"{trial.number:05d}")
        assert record is not None
        if trial.params:
            assert trial.params["quant.bits"] == record.recipe["quant"]["bits"]
            assert trial.params["student.width"] == record.recipe["student"]["width"]
            bits.add(trial.params["quant.bits"])
    assert len(bits) >= 3


def asked(study: optuna.Study, as_positions: bool) -> dict[str, Any]:
    """One trial of the space above, its ordered choices as positions; told a result that depends on them."""
    trial = study.ask()

    def ordered(name: str) -> int:
        choices = ORDERED[name]
        if as_positions:
            return trial.suggest_int(name, 0, len(choices) - 1)
        return choices.index(trial.suggest_categorical(name, choices))

    params: dict[str, Any] = {"student.width": ordered("student.width")}
    params["train.lr"] = trial.suggest_float("train.lr", 0.01, 0.3, log=True)
    params["clip"] = trial.suggest_categorical("clip", ["none", "norm"])
    if params["clip"] == "norm":
        params["clip[norm].threshold"] = ordered("clip[norm].threshold")
    params["quant.bits"] = ordered("quant.bits")
    values = [params["train.lr"] * params["quant.bits"], abs(params["quant.bits"] - 2.0) - params["student.width"]]
    trial.set_constraint("size", float(trial.number % 5 == 0))
    if trial.number % 7 == 6:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, values)
    return params


def every_second(sampler: RecentTPE) -> RecentTPE:
    """The sampler, which sees every second trial that was asked for before."""
    asks = count()
    sampler._seen_numbers = lambda: range(0, next(asks), 2)
    return sampler


SAMPLERS = {
    "ours": (lambda: RecentTPE(lambda: None, seed=3), 40),
    "ours, a part of the history": (lambda: every_second(RecentTPE(lambda: None, seed=3)), 40),
    "tpe": (lambda: TPESampler(seed=3, multivariate=True, group=True, constant_liar=True), 40),
    "nsga2": (lambda: NSGAIISampler(seed=3, population_size=8), 40),
    "sobol": (lambda: QMCSampler(seed=3, scramble=True, warn_independent_sampling=False), 20),
    "random": (lambda: RandomSampler(seed=3), 20),
    "gp": (lambda: GPSampler(seed=3, n_startup_trials=6), 9),
}


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space(SPACE)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_proposes_what_it_proposes_for_positions(space: Space, name: str) -> None:
    make, trials = SAMPLERS[name]
    plain = optuna.create_study(directions=["minimize", "minimize"], sampler=make())
    shown = optuna.create_study(directions=["minimize", "minimize"], sampler=Positions(make(), space))
    expected = [asked(plain, as_positions=True) for _ in range(trials)]
    assert [asked(shown, as_positions=False) for _ in range(trials)] == expected
    assert isinstance(shown.trials[-1].distributions["quant.bits"], CategoricalDistribution)


def test_queued_values_are_taken_and_seen_as_positions(space: Space) -> None:
    seen: list[list[FrozenTrial]] = []

    class Watching(RandomSampler):
        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            seen.append(study.get_trials(states=(TrialState.COMPLETE,)))
            return super().sample_independent(study, trial, param_name, param_distribution)

    study = optuna.create_study(directions=["minimize", "minimize"], sampler=Positions(Watching(seed=0), space))
    study.enqueue_trial({"quant.bits": 32, "student.width": 8})
    first = asked(study, as_positions=False)
    assert (first["quant.bits"], first["student.width"]) == (5, 1)
    asked(study, as_positions=False)
    [trial] = seen[-1]
    assert (trial.params["quant.bits"], trial.params["student.width"]) == (5, 1)
    assert trial.distributions["quant.bits"] == IntDistribution(0, 5)
    assert study.trials[0].params["quant.bits"] == 32, "the storage keeps the value"


def test_an_index_with_positions_is_refused_and_made_again(box) -> None:
    run(box, "search.trials=8")
    journal = box / "study" / "study.log"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        line.pop("crc32", None)
        if line.get("param_name") == "quant.bits":
            choices = json.loads(line["distribution"])["attributes"]["choices"]
            as_positions = {"low": 0, "high": len(choices) - 1, "log": False, "step": 1}
            line["distribution"] = json.dumps({"name": "IntDistribution", "attributes": as_positions})
    journal.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    with pytest.raises(SpaceError, match=r"quant\.bits: is stored in another way .*--rebuild"):
        run(box, "search.trials=10")
    assert run(box, "search.trials=10", rebuild=True).finished == 10
    assert np.isin([t.params["quant.bits"] for t in trials_of(box / "study") if t.params], BITS).all()
