"""Jobs and answers that the driver and the workers exchange. Independent of torch and Ray."""

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

    folder     for the trial's files
    params     the sampler's parameters, for the record
    baseline   name of the baseline; empty if it is none
    continues  number of the stopped trial that this one continues
    rungs      the stopped trial's accuracies, by the number of epochs trained
    """

    recipe: Recipe
    number: int
    folder: Path
    params: Mapping[str, Any] = field(default_factory=dict)
    baseline: str = ""
    continues: int | None = None
    rungs: Mapping[int, float] = field(default_factory=dict)

    def record(self) -> TrialRecord:
        """The trial's initial record: failed, without a reason."""
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
    """The state of a group of trials after a job.

    records   of the trials that ended
    epoch     the rung at which the other trials wait; None if none waits
    accuracy  of the waiting trials at that rung, by number
    """

    records: Sequence[TrialRecord] = ()
    epoch: int | None = None
    accuracy: Mapping[int, float] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether trials wait in the worker for a decision to continue or stop."""
        return self.epoch is not None


@dataclass(frozen=True)
class Cost:
    """Costs of a recipe, from its untrained student.

    structure   key of the graph that runs
    size_bytes  of the file
    file        its name in the trial's folder
    """

    structure: str
    size_bytes: int
    file: str


@dataclass(frozen=True)
class Proven:
    """Findings from training the widest students for a step and exporting them.

    left_alone  modules with weights that are neither rounded nor pruned, path -> type
    whole       layers from which no channels can be removed; only if the recipe removes channels
    frozen      parameters with ``requires_grad=False``, which are trained nevertheless
    """

    left_alone: Mapping[str, str] = field(default_factory=dict)
    whole: Sequence[str] = ()
    frozen: Sequence[str] = ()


@dataclass(frozen=True)
class Pace:
    """How long training takes in one process on this machine.

    epoch_s    of the widest student, uncompressed and without a teacher
    teacher_s  of all teachers that are not in the cache yet
    """

    epoch_s: float
    teacher_s: float = 0.0


@dataclass(frozen=True)
class Prepared:
    """Results of the preparation of a study.

    logits    teacher key -> (N, C) float32, over the training part
    chance    accuracy of always predicting the most frequent class
    metrics   the task's metrics of the same predictions
    teachers  ``model``, ``accuracy`` and ``weak`` of each teacher without a checkpoint
    """

    logits: Mapping[str, np.ndarray]
    classes: int
    chance: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    teachers: Sequence[Mapping[str, Any]] = ()
