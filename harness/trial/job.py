"""What goes between the driver and a worker: jobs and answers, one definition for both sides. No torch, no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.recipe import Recipe
from harness.records import CONTINUES, TrialRecord


@dataclass(frozen=True)
class TrialJob:
    """One trial to run.

    folder     where it leaves its files
    params     the sampler's parameters, for the record
    baseline   which one it is; empty: none
    continues  number of the stopped trial that it takes up again
    rungs      that one's accuracies, by the epochs that it had trained
    """

    recipe: Recipe
    number: int
    folder: Path
    params: Mapping[str, Any] = field(default_factory=dict)
    baseline: str = ""
    continues: int | None = None
    rungs: Mapping[int, float] = field(default_factory=dict)

    def record(self) -> TrialRecord:
        """Its record while nothing is known: failed, without a reason."""
        return TrialRecord(
            number=self.number,
            status="failed",
            baseline=self.baseline,
            recipe=self.recipe.to_tree(),
            params=dict(self.params),
            seed=self.recipe.seed,
            diagnostics={} if self.continues is None else {CONTINUES: self.continues},
        )


@dataclass(frozen=True)
class Answer:
    """What became of a group of trials.

    records   of the trials that ended
    epoch     the rung at which the others wait; None where none waits
    accuracy  theirs there, by number
    """

    records: Sequence[TrialRecord] = ()
    epoch: int | None = None
    accuracy: Mapping[int, float] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Do trials wait in the worker to be told whether they go on?"""
        return self.epoch is not None


@dataclass(frozen=True)
class Cost:
    """What a recipe costs, read from its untrained student: the key of the graph that runs, and the file's bytes and
    name in the trial's folder."""

    structure: str
    size_bytes: int
    file: str


@dataclass(frozen=True)
class Proven:
    """What was seen when the widest students trained a step and were exported.

    left_alone  what has weights that are neither rounded nor pruned, path -> type
    whole       layers from which no channels can be removed; only where the recipe removes channels
    frozen      parameters without ``requires_grad``, which are trained all the same
    """

    left_alone: Mapping[str, str] = field(default_factory=dict)
    whole: Sequence[str] = ()
    frozen: Sequence[str] = ()


@dataclass(frozen=True)
class Prepared:
    """What a study needs before its first trial.

    logits    of each teacher over the training part, (N, C) float32, by the teacher's key
    chance    accuracy of always saying the most frequent class, and ``metrics`` of the task of the same
    teachers  ``model``, ``accuracy`` and ``weak`` of those trained now
    """

    logits: Mapping[str, np.ndarray]
    classes: int
    chance: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    teachers: Sequence[Mapping[str, Any]] = ()
