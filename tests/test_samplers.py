"""Sampling: proposals are Optuna's own, for what they cost."""

import os

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from harness.search.samplers import FRONT, RECENT, RecentTPE, recent
from harness.search.study import Study
from tests.searching import space_of

ways = pytest.mark.parametrize("directions", [("maximize", "minimize", "minimize"), ("minimize",)])


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def suggested(trial):
    """A branch, a whole number, a logarithm: as a space has them."""
    params = {"width": trial.suggest_int("width", 0, 3), "lr": trial.suggest_float("lr", 0.01, 0.3, log=True)}
    params["clip"] = trial.suggest_categorical("clip", ["none", "norm"])
    if params["clip"] == "norm":
        params["threshold"] = trial.suggest_float("threshold", 0.1, 10, log=True)
    return params


def settle(study, trial, params):
    """A result of every kind: values, a broken constraint, a stop, none."""
    values = [params["lr"], 2.0 ** params["width"], params["width"] + params.get("threshold", 0.5)]
    trial.set_constraint("size_bytes", float(trial.number % 5 == 0))
    if trial.number % 11 == 10:
        study.tell(trial, state=TrialState.FAIL)
    elif trial.number % 7 == 6:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, values[: len(study.directions)])


def proposed(sampler, directions, trials=80, side_by_side=4, begun=()):
    """The parameters of each trial of a study; several are running whenever one is asked for."""
    study = optuna.create_study(directions=list(directions), sampler=sampler)
    study.add_trials(begun)
    running, found = [], []
    for _ in range(trials):
        trial = study.ask()
        found.append(suggested(trial))
        running.append((trial, found[-1]))
        if len(running) == side_by_side:
            settle(study, *running.pop(0))
    return study, found


@ways
def test_proposals_are_those_of_optunas_own_tpe(directions):
    _, ours = proposed(RecentTPE(lambda: None, seed=3), directions)
    _, theirs = proposed(TPESampler(seed=3, constant_liar=True), directions)
    assert ours == theirs
    _, other = proposed(RecentTPE(lambda: None, seed=4), directions)
    assert ours != other


@ways
def test_what_is_not_seen_has_no_part_in_a_proposal(directions):
    history = proposed(TPESampler(seed=1), directions, trials=120)[0].get_trials()
    seen = [t for t in history if t.number % 3 == 0 and t.state.is_finished()]
    _, ours = proposed(RecentTPE(lambda: [t.number for t in seen], seed=5), directions, trials=1, begun=history)
    _, theirs = proposed(TPESampler(seed=5, constant_liar=True), directions, trials=1, begun=seen)
    assert ours == theirs
    _, of_all = proposed(TPESampler(seed=5, constant_liar=True), directions, trials=1, begun=history)
    assert ours != of_all


def test_a_trial_that_ends_between_two_asks_is_seen_with_its_end():
    directions = ("maximize", "minimize", "minimize")
    study = optuna.create_study(directions=list(directions))
    sampler = RecentTPE(lambda: range(len(study.trials) - 1), seed=0)  # looked up one by one, all of them
    study.sampler, asked = sampler, []
    for _ in range(60):
        trial = study.ask()
        asked.append(suggested(trial))
        settle(study, trial, asked[-1])
    _, theirs = proposed(TPESampler(seed=0, constant_liar=True), directions, trials=60, side_by_side=1)
    assert asked == theirs


def test_the_history_that_is_seen_is_bounded_and_holds_the_fronts_ends():
    assert recent(range(RECENT + FRONT), [1], [7]) is None, "while it is short, all of it"
    seen = recent(range(5000), range(0, 4000, 4), [5000, 5001])
    assert len(seen) == RECENT + FRONT + 2
    assert {0, 3996, 4850, 4999, 5000, 5001} <= seen and 4849 not in seen


def test_a_proposal_is_on_the_disk_before_it_is_given_out_but_not_synced_for_each_parameter(box, monkeypatch):
    (box / "study").mkdir()
    study, journal, synced = Study(space_of(box), box / "study"), box / "study" / "study.log", []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (sync(fd), synced.append(os.fstat(fd).st_size)))
    [proposal] = study.propose()
    assert synced[-1] == journal.stat().st_size, "all of it is synced"
    assert len(proposal.params) >= 4 > len(synced), "once for the trial, once for its recipe"
