"""The interface to Optuna: samplers, distributions, proposals without duplicates, and telling results."""

from __future__ import annotations

import json
import logging
import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from harness.errors import SpaceError
from harness.recipe import Recipe, parse_recipe
from harness.records import CONTINUES, TrialRecord
from harness.search.lane_groups import in_lanes
from harness.search.parameters import Positions, code_of, stored_distribution, suggest, to_stored
from harness.search.samplers import make_sampler, recent
from harness.search.storage import open_storage
from harness.space.distributions import Hole
from harness.space.space import Space

log = logging.getLogger(__name__)
ASK_AGAIN = 5  # asks that may give duplicates before trials are drawn at random
DRAW_AGAIN = 50  # random draws that may give duplicates before the space counts as exhausted
STOPPED = "stopped"  # name of the constraint that a stopped trial violates


@dataclass(frozen=True)
class Proposal:
    """One trial to run: its Optuna number, the sampler's parameters and the recipe that they give."""

    number: int
    params: dict[str, Any]
    recipe: Recipe
    baseline: str = ""
    continues: TrialRecord | None = None  # record of the stopped trial that this one continues
    kept: bool = False  # a worker still has the stopped trial's student; else it trains from the start

    @property
    def reached(self) -> int:
        """Epoch of the stopped trial's last rung; 0 if this trial continues none."""
        return max(map(int, self.continues.diagnostics["rungs"])) if self.continues else 0

    @property
    def epochs(self) -> int:
        """Number of epochs that this trial trains itself."""
        return self.recipe.train.epochs - (self.reached if self.kept else 0)


# User attributes of trials
NAMED = "named"  # name of a first trial, which the report marks
AGAIN = "again"  # of a lost trial that is to be repeated: how often it has been started
RETRY_OF = "retry_of"  # of the trial that repeats it: the lost trial's number


def _name(space: Space, storage: BaseStorage, folder: Path) -> str:
    """The name of the folder's study. It stays the same when the folder is moved."""
    if space.settings.storage is not None:
        from harness.search.database import claim  # SQLAlchemy takes as long to import as Optuna

        return claim(storage, folder, [o.direction for o in space.objectives])
    held = storage.get_all_studies()
    return held[0].study_name if held else folder.resolve().name


class Study:
    """An Optuna study of a space, of which this process is the only writer."""

    def __init__(self, space: Space, folder: Path, give_up: Callable[[], bool] = lambda: False):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self._holes = {h.internal: h for h in space.holes}
        storage = open_storage(space.settings.storage, folder, give_up)
        self.optuna = optuna.create_study(
            study_name=_name(space, storage, folder),
            storage=storage,
            load_if_exists=True,
            directions=[o.direction for o in space.objectives],
        )
        trials = self.optuna.get_trials(deepcopy=False)
        self._check_parameters(trials)
        sampler = make_sampler(space, len(trials), lambda: recent(self.told, self.front(), self._open))
        self.optuna.sampler = Positions(sampler, space)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental in Optuna; the dashboard shows the names
            self.optuna.set_metric_names([o.name for o in space.objectives])
        self._random = random.Random(f"{space.settings.seed} {len(trials)} draws")
        self._open: dict[int, optuna.Trial] = {}
        self.keys: dict[str, int] = {}  # recipe key -> number of the trial that has it
        self.queue: list[tuple[Mapping[str, Any], dict[str, Any]]] = []  # before the sampler's: codes, attributes
        self.told = [t.number for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        self.damaged: list[int] = []  # COMPLETE trials whose record or file is damaged
        self.front: Callable[[], Sequence[int]] = list  # numbers on the front, which the sampler always sees

    def _check_parameters(self, trials: Sequence[FrozenTrial]) -> None:
        """Refuse an index that stores positions in the place of values, as earlier versions did.

        Raises:
            SpaceError: says how to make the index again.
        """
        for name, found in {n: d for t in trials for n, d in t.distributions.items()}.items():
            if name in self._holes and type(found) is not type(stored_distribution(self._holes[name])):
                raise SpaceError(
                    name,
                    "is stored in another way than in this version of harness",
                    remedy="Run the same command with --rebuild: the index is rebuilt from the trials' records.",
                )

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    def codes(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Convert Optuna's parameters to codes of the space."""
        return {name: code_of(self._holes[name], value) for name, value in params.items()}

    def seed_of(self, number: int) -> int:
        """The training seed of trial ``number``, different for each number."""
        return (self.space.settings.seed * 1_000_003 + number) % 2**31

    def baseline(self, index: int) -> Proposal:
        """Open the trial of the ``index``-th baseline of the space."""
        baseline = self.space.baselines()[index]
        self.enqueue(baseline.params or {}, {"baseline_index": index})
        trial = self.optuna.ask()
        params = {} if baseline.params is None else self.space.sample(lambda hole: suggest(trial, hole))
        recipe = replace(baseline.recipe, seed=self.seed_of(trial.number))
        return self._opened(trial, params, recipe, baseline.name)

    def propose(self, lanes: int = 1) -> list[Proposal]:
        """Ask the sampler for a trial, and for up to ``lanes`` - 1 more that differ from it only in numbers that may
        differ between lanes. Empty if the space is exhausted."""
        leader = self._propose()
        if leader is None:
            return []
        structure = {name: code for name, code in leader.params.items() if not in_lanes(self._holes[name].name)}
        followers = []
        for _ in range(lanes - 1):
            self.enqueue(structure, {})
            followers.append(self._asked())
        return [leader, *(f for f in followers if f is not None)]

    def continue_trial(self, stopped: TrialRecord, kept: bool) -> Proposal:
        """Open a trial that continues a stopped one, with the same parameters, recipe and seed.

        It is a new trial because PRUNED is final in Optuna. ``kept``: a worker still has the stopped trial's student.
        """
        frozen = optuna.create_trial(
            state=TrialState.RUNNING,
            params={name: to_stored(self._holes[name], code) for name, code in stopped.params.items()},
            distributions={name: stored_distribution(self._holes[name]) for name in stopped.params},
            user_attrs={CONTINUES: stopped.number},
        )
        self.optuna.add_trial(frozen)
        trial = optuna.Trial(self.optuna, self.trials()[-1]._trial_id)
        recipe = parse_recipe(stopped.recipe, self.space.registries)
        return replace(self._opened(trial, stopped.params, recipe, ""), continues=stopped, kept=kept)

    def _propose(self) -> Proposal | None:
        """The next trial: from the queue, else from the sampler, else drawn at random.

        A recipe that has already run is told FAIL, and the next one is tried. None if all tries were duplicates.
        """
        while self.queue:
            self.enqueue(*self.queue.pop(0))
            proposal = self._asked()
            if proposal is not None:
                return proposal
        for attempt in range(ASK_AGAIN + DRAW_AGAIN):
            if attempt >= ASK_AGAIN:
                self.enqueue(self.space.sample(self._draw), {})
            proposal = self._asked()
            if proposal is not None:
                return proposal
        return None

    def _asked(self) -> Proposal | None:
        """One trial from the sampler. If its recipe has already run, tell FAIL and return None."""
        trial = self.optuna.ask()
        params = self.space.sample(lambda hole: suggest(trial, hole))
        recipe = self.space.fill(params, self.seed_of(trial.number))
        known = self.keys.get(recipe.key())
        if known is None:
            return self._opened(trial, params, recipe, trial.user_attrs.get(NAMED, ""))
        trial.set_user_attr("reason", f"duplicate of trial {known}")
        self.optuna.tell(trial, state=TrialState.FAIL)
        return None

    def _opened(self, trial: optuna.Trial, params: dict[str, Any], recipe: Recipe, baseline: str) -> Proposal:
        self.keys[recipe.key()] = trial.number
        self._open[trial.number] = trial
        trial.set_user_attr("recipe", json.dumps(recipe.to_tree()))
        if baseline:
            trial.set_user_attr("baseline", baseline)
        return Proposal(trial.number, params, recipe, baseline)

    def _draw(self, hole: Hole) -> Any:
        return self._random.choice(hole.spread(1000))

    def enqueue(self, params: Mapping[str, Any], attrs: dict[str, Any]) -> None:
        """Queue a trial with these codes; the sampler chooses the other parameters.

        The caller must ask for it at once. ``ask`` takes the oldest WAITING trial, so there must never be two.
        """
        stored = {name: to_stored(self._holes[name], code) for name, code in params.items()}
        self.optuna.enqueue_trial(stored, user_attrs=attrs)

    def retry(self, trial: FrozenTrial, reason: str, retries: int) -> None:
        """Tell FAIL for a trial that was left RUNNING without a result. Mark it to be repeated, at most ``retries``
        times. Baselines and continuations are not marked, because the loop proposes them again itself."""
        attempt = int(trial.user_attrs.get("attempt", 0)) + ("recipe" in trial.user_attrs)  # no recipe: not started
        self.reopen(trial)
        if attempt <= retries and not {"baseline_index", CONTINUES} & set(trial.user_attrs):
            self._attr(trial.number, AGAIN, attempt)
        self.fail(trial.number, reason, final=False)

    def put_back(self, number: int) -> None:
        """Tell FAIL for a trial that was proposed but not started, marked so that a resumed search starts it."""
        self._attr(number, AGAIN, int(self._open[number].user_attrs.get("attempt", 0)))
        self.fail(number, "not started", final=False)

    def queue_retries(self) -> None:
        """Put trials that are damaged or marked to be repeated, and were not yet repeated, at the front of the queue.
        Baselines are left out, because the loop proposes them."""
        trials = self.trials()
        tried = {t.user_attrs.get(RETRY_OF) for t in trials}
        queued: list[tuple[Mapping[str, Any], dict[str, Any]]] = []
        for t in trials:
            params = t.system_attrs.get("fixed_params", {}) | t.params
            lost = AGAIN in t.user_attrs or t.number in self.damaged
            if lost and "baseline_index" not in t.user_attrs and t.number not in tried and params:
                named = {NAMED: t.user_attrs[NAMED]} if NAMED in t.user_attrs else {}
                attempt = t.user_attrs.get(AGAIN, 0)
                queued.append((self.codes(params), {RETRY_OF: t.number, "attempt": attempt, **named}))
        self.queue[:0] = queued

    def _attr(self, number: int, name: str, value: Any) -> None:
        self._open[number].set_user_attr(name, value)

    def fail(self, number: int, reason: str, final: bool = True) -> None:
        """Tell FAIL for a trial. ``final``: its recipe would fail again, so a baseline is not repeated."""
        self._attr(number, "reason", reason)
        if final:
            self._attr(number, "final", True)
        self.optuna.tell(number, state=TrialState.FAIL)
        self._open.pop(number, None)

    def tell(self, record: TrialRecord) -> bool:
        """Tell a record to Optuna. True if the trial is feasible, so that it may be on the front.

        The state is COMPLETE; PRUNED if the trial was stopped or violates a constraint; FAIL if it failed or a value is
        missing or not finite.
        """
        if record.status == "stopped":
            self._keep_values(record)
            self._constrain(record)
            self._attr(record.number, "reason", record.reason)
            self._finish(record.number, state=TrialState.PRUNED)
            return False
        values = [record.value(o.name) for o in self.space.objectives]
        if record.status != "ok" or any(v is None or not math.isfinite(v) for v in values):
            self.fail(record.number, record.reason or f"nonfinite objectives {values}")
            return False
        self._keep_values(record)
        broken = self._constrain(record)
        if broken:
            self._attr(record.number, "reason", f"infeasible: {broken}")
            self._finish(record.number, state=TrialState.PRUNED)
        else:
            self._finish(record.number, [float(v) for v in values if v is not None])
        return not broken

    def _finish(self, number: int, values: list[float] | None = None, state: TrialState | None = None) -> None:
        self.optuna.tell(number, values, state)
        self.told.append(number)
        self._open.pop(number, None)

    def _keep_values(self, record: TrialRecord) -> None:
        for name, found in record.measurements.items():
            self._attr(record.number, name, found.median)

    def _constrain(self, record: TrialRecord) -> str:
        """Set the trial's constraints in Optuna; return the violated ones as text."""
        found = excess(self.space, record)
        for name, value in found.items():
            self._open[record.number].set_constraint(name, value)
        return self._words(found)

    def broken(self, record: TrialRecord) -> str:
        """The constraints that the values measured so far violate, as text; empty if there are none."""
        found = excess(self.space, record)
        return self._words({name: v for name, v in found.items() if record.value(name.split()[0]) is not None})

    def _words(self, excesses: Mapping[str, float]) -> str:
        return ", ".join(
            f"{name} {self.space.constraints[name.split()[0]]} by {v:.6g}"
            for name, v in excesses.items()
            if name != STOPPED and v > 0
        )

    def reopen(self, trial: FrozenTrial) -> None:
        """Open a trial again that an earlier driver left RUNNING."""
        self._open[trial.number] = optuna.Trial(self.optuna, trial._trial_id)


def excess(space: Space, record: TrialRecord) -> dict[str, float]:
    """By how much each constraint is violated; <= 0 means that it is met.

    An unmeasured quantity violates its constraint, except in a stopped trial. A stopped trial violates the additional
    constraint ``stopped``, so that the sampler learns from it.
    """
    stopped = record.status == "stopped"
    found = {} if space.settings.stop == "none" else {STOPPED: float(stopped)}
    for name, bounds in space.constraints.items():
        value = record.value(name)
        for side, bound in bounds.items():
            sign = 1 if side == "max" else -1
            unknown = 0.0 if stopped else 1e300
            found[f"{name} {side}"] = unknown if value is None else (value - bound) * sign
    return found
