"""Optuna's samplers, seeded. TPE sees a history of bounded length."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Collection, Container, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from harness.search.parameters import StudyView, one_trial
from harness.space.space import Space
from harness.stats.direction import Direction
from harness.stats.pareto import as_losses, best
from harness.stats.spaced import evenly

DIRECTION: dict[StudyDirection, Direction] = {
    StudyDirection.MINIMIZE: "minimize",
    StudyDirection.MAXIMIZE: "maximize",
}
RECENT, FRONT = 150, 50  # told trials that TPE sees: so many of the latest and of the front. More cost time per ask
FEW = 3  # trials per hole; below it the budget is too small for TPE to learn from

Seen = Callable[[], Collection[int] | None]  # numbers of the trials that the sampler sees; None: all


class _Some(StudyView):
    """A study that shows only some of its trials, as of the ask for trial ``number``."""

    def __init__(self, study: optuna.Study, number: int, trials: Sequence[FrozenTrial]):
        super().__init__(study)
        self.number, self._trials = number, trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [t for t in self._trials if states is None or t.state in states]

    @cached_property
    def halves(self) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """TPE's better and worse trials, split as in Optuna.

        The better ones are the best tenth of the told trials, with one objective at most 25. Running trials count as
        worse (constant liar).
        """
        told_trials = [t for t in self._trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        running = [t for t in self._trials if t.state == TrialState.RUNNING and t.number != self.number]
        missed = {t.number: sum(v for v in t.constraints.values() if v > 0) for t in told_trials}
        complete = [t for t in told_trials if not missed[t.number] and t.state == TrialState.COMPLETE]
        others = [t for t in told_trials if missed[t.number] or t.state == TrialState.PRUNED]
        others.sort(key=lambda t: missed[t.number])  # trials that were stopped but miss no constraint come first

        directions: list[Direction] = [DIRECTION[d] for d in self._study.directions]
        n = math.ceil(0.1 * len(told_trials)) if len(directions) > 1 else min(math.ceil(0.1 * len(told_trials)), 25)
        losses = as_losses(np.array([t.values for t in complete]), directions)
        better = {t.number for t in [*(complete[i] for i in best(losses, n)), *others][:n]}
        worse = [t for t in told_trials if t.number not in better] + running
        return [t for t in told_trials if t.number in better], sorted(worse, key=lambda t: t.number)


class RecentTPE(TPESampler):
    """TPE that learns from the front and the latest trials only, so that the cost of an ask is bounded.

    Parameters are sampled independently: with three objectives, multivariate TPE concentrates on a part of the front
    and is behind random search after 240 trials (``benchmarks/samplers.py``). For the same trials it proposes the same
    as Optuna's TPE, but it reads and splits them once per ask, not once per parameter.
    """

    def __init__(self, seen: Seen, seed: int):
        super().__init__(seed=seed, constant_liar=True)
        self._seen_numbers = seen
        self._last: _Some | None = None

    def _view(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        """The view of the study, made once per ask."""
        if self._last is None or self._last.number != trial.number:
            numbers = self._seen_numbers()
            trials = study.get_trials(deepcopy=False) if numbers is None else self._look_up(study, sorted(numbers))
            self._last = _Some(study, trial.number, trials)
        return self._last

    def _look_up(self, study: optuna.Study, numbers: Sequence[int]) -> list[FrozenTrial]:
        """The trials of these numbers, read one by one: listing all trials would take longer in a longer study."""
        finished = {t.number: t for t in self._last.get_trials() if t.state.is_finished()} if self._last else {}
        return [finished[number] if number in finished else one_trial(study, number) for number in numbers]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return super().infer_relative_search_space(self._view(study, trial), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(self._view(study, trial), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return super().sample_independent(self._view(study, trial), trial, param_name, param_distribution)

    def _sample(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        below, above = self._view(study, trial).halves
        better = self._build_parzen_estimator(study, search_space, below, handle_below=True)
        worse = self._build_parzen_estimator(study, search_space, above, handle_below=False)
        drawn = better.sample(self._rng.rng, self._n_ei_candidates)
        likeliest = self._compare(drawn, self._compute_acquisition_func(drawn, better, worse))
        return {name: d.to_external_repr(likeliest[name]) for name, d in search_space.items()}


def recent(told: Sequence[int], front: Sequence[int], unfinished: Collection[int]) -> set[int] | None:
    """The numbers of the trials that TPE sees: the last ``RECENT`` told ones, the front (evenly thinned to ``FRONT``)
    and the unfinished ones. None while at most ``RECENT + FRONT`` trials are told: it sees all."""
    if len(told) <= RECENT + FRONT:
        return None
    return {*told[-RECENT:], *evenly(sorted(front), FRONT), *unfinished}


def choose(space: Space) -> str:
    """The name of the space's sampler, with ``auto`` resolved by space and budget.

    ``auto`` is ``sobol`` if the budget is too small to learn from and every hole always exists and is ordered.
    Otherwise it is ``tpe``, which handles conditional parameters, constraints, several objectives and parallel
    trials. ``gp`` and ``nsga2`` are used only on request: neither was better beyond the noise at any budget of
    ``benchmarks/samplers.py``, and ``gp`` imports torch in the driver and takes seconds per ask.
    """
    if space.settings.sampler != "auto":
        return space.settings.sampler
    trials = space.settings.trials
    flat = all(not h.parents and (h.kind != "choice" or h.ordered) for h in space.holes)
    few = trials is not None and trials < FEW * len(space.holes)
    return "sobol" if flat and few else "tpe"


def make_sampler(space: Space, done: int, seen: Seen) -> BaseSampler:
    """The sampler of a space. Its seed depends on the study's seed and on the number of trials ``done``, because with
    the same seed a resumed study would repeat its first draws."""
    settings = space.settings
    name = choose(space)
    seed = random.Random(f"{settings.seed} {done}").randrange(2**31)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match name:
            case "random":
                return RandomSampler(seed=seed)
            case "sobol":  # Optuna continues the sequence only if the seed stays the same
                return QMCSampler(seed=settings.seed, scramble=True, warn_independent_sampling=False)
            case "nsga2":
                return NSGAIISampler(seed=seed)
            case "gp":
                return GPSampler(seed=seed)
        return RecentTPE(seen, seed)
