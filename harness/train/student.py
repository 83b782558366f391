"""A student in training."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from harness.recipe import Recipe
from harness.train.lanes import Examples
from harness.train.step import Hparams, Plan, State


@dataclass(frozen=True)
class Run:
    """A student after ``epoch`` epochs. ``order`` is this run's own generator, which shuffles the samples."""

    recipe: Recipe
    module: nn.Module
    examples: Examples
    plan: Plan
    state: State
    hparams: Hparams
    order: torch.Generator
    epoch: int = 0
    history: tuple[dict[str, float], ...] = ()
    removed: float = 0.0  # schedule: share of the way to its ratio; rollback: ratio reached
    stride: float = 0.0  # what the next rollback attempt adds to the ratio; 0 before the first attempt
    attempts: int = 0  # number of rollback attempts, including failed ones
    kept: dict[str, tuple[int, int]] = field(default_factory=dict)  # layer -> channels now, channels before pruning

    @property
    def device(self) -> torch.device:
        return self.examples.x.device
