"""Holes as Optuna's parameters. Storage has the values of a recipe; samplers see positions in ordered choices.

``{choice: [3, 4, 6]}`` is stored as a category with the values 3, 4 and 6, so that Optuna's dashboard and tables show
bits. Optuna's samplers know no order of categories. :class:`Positions` therefore shows them the whole numbers 0 to 2,
in which 4 bits lie between 3 and 6.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from harness.space.distributions import Hole
from harness.space.space import Space


def distribution(hole: Hole) -> BaseDistribution:
    """The distribution that samplers see: whole numbers for ordered choices, categories for other choices."""
    if hole.kind == "choice":
        return IntDistribution(0, len(hole.choices) - 1) if hole.ordered else CategoricalDistribution(hole.labels)
    low, high = hole.bounds()
    if hole.kind == "int":
        return IntDistribution(int(low), int(high), log=hole.log, step=1 if hole.log else int(hole.step or 1))
    return FloatDistribution(float(low), float(high), log=hole.log, step=hole.step)


def to_optuna(hole: Hole, code: Any) -> Any:
    """The value of :func:`distribution` for a hole's code."""
    return hole.labels[code] if hole.kind == "choice" and not hole.ordered else code


def stored_distribution(hole: Hole) -> BaseDistribution:
    """The distribution in Optuna's storage: the values themselves for ordered choices, else :func:`distribution`."""
    return CategoricalDistribution(hole.choices) if hole.ordered else distribution(hole)


def to_stored(hole: Hole, code: Any) -> Any:
    """The value in Optuna's storage for a hole's code."""
    return hole.choices[code] if hole.ordered else to_optuna(hole, code)


def code_of(hole: Hole, stored: Any) -> Any:
    """The code of a value in Optuna's storage."""
    if hole.kind != "choice":
        return stored
    return (hole.choices if hole.ordered else hole.labels).index(stored)


def suggest(trial: optuna.Trial, hole: Hole) -> Any:
    """Let the sampler choose a value of a hole; returns its code."""
    match stored_distribution(hole):
        case FloatDistribution() as d:
            return trial.suggest_float(hole.internal, d.low, d.high, log=d.log, step=d.step)
        case IntDistribution() as d:
            return trial.suggest_int(hole.internal, d.low, d.high, log=d.log, step=d.step)
        case CategoricalDistribution() as d:
            return code_of(hole, trial.suggest_categorical(hole.internal, d.choices))
    raise TypeError(f"no distribution of {hole.internal}")


class StudyView:
    """A study whose trials are seen as ``shown`` makes them. It has all that Optuna's samplers read."""

    def __init__(self, study: optuna.Study, shown: Callable[[FrozenTrial], FrozenTrial] = lambda trial: trial):
        self._study, self.shown = study, shown

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [self.shown(t) for t in self._study._get_trials(deepcopy=False, states=states, use_cache=use_cache)]

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self._get_trials()


def one_trial(study: Any, number: int) -> FrozenTrial:
    """One trial of a study or of a view of it, read alone: listing all takes longer in a longer study."""
    storage = study._storage
    found = storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study._study_id, number))
    return study.shown(found) if isinstance(study, StudyView) else found


class Positions(BaseSampler):
    """Optuna's ``sampler``, which sees positions in the place of the values of ordered choices."""

    def __init__(self, sampler: BaseSampler, space: Space):
        self.sampler = sampler
        self._ordered = {hole.internal: hole for hole in space.holes if hole.ordered}
        self._finished: dict[int, FrozenTrial] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        space = self.sampler.infer_relative_search_space(self._view(study), trial)
        return {name: self._replaced(name, d, stored_distribution) for name, d in space.items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        seen = {name: self._replaced(name, d, distribution) for name, d in search_space.items()}
        drawn = self.sampler.sample_relative(self._view(study), trial, seen)
        return {name: self._value(name, drawn[name]) for name in drawn}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        seen = self._replaced(param_name, param_distribution, distribution)
        return self._value(param_name, self.sampler.sample_independent(self._view(study), trial, param_name, seen))

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.sampler.before_trial(self._view(study), trial)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self.sampler.after_trial(self._view(study), self._shown(trial), state, values)

    def reseed_rng(self) -> None:
        self.sampler.reseed_rng()

    def _view(self, study: optuna.Study) -> Any:
        return StudyView(study, self._shown)

    def _shown(self, trial: FrozenTrial) -> FrozenTrial:
        """The trial as the sampler sees it. Finished trials no longer change, so each is made once."""
        if trial.number in self._finished:
            return self._finished[trial.number]
        seen = copy.copy(trial)
        seen.params = self._each(trial.params, lambda hole, value: hole.choices.index(value))
        seen.distributions = self._each(trial.distributions, lambda hole, _: distribution(hole))
        if trial.state.is_finished():
            self._finished[trial.number] = seen
        return seen

    def _each(self, values: Mapping[str, Any], change: Callable[[Hole, Any], Any]) -> dict[str, Any]:
        return {n: change(self._ordered[n], v) if n in self._ordered else v for n, v in values.items()}

    def _replaced(self, name: str, d: BaseDistribution, by: Callable[[Hole], BaseDistribution]) -> BaseDistribution:
        return by(self._ordered[name]) if name in self._ordered else d

    def _value(self, name: str, drawn: Any) -> Any:
        return self._ordered[name].choices[int(drawn)] if name in self._ordered else drawn
