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
    """A student after ``epoch`` epochs. ``order`` shuffles; it belongs to this run."""

    recipe: Recipe
    module: nn.Module
    examples: Examples
    plan: Plan
    state: State
    hparams: Hparams
    order: torch.Generator
    epoch: int = 0
    history: tuple[dict[str, float], ...] = ()
    removed: float = 0.0  # share of the channels that the schedule has taken so far
    stride: float = 0.0  # what the next attempt of a rollback takes more; 0: not begun
    attempts: int = 0  # of a rollback, failed ones included
    kept: dict[str, tuple[int, int]] = field(default_factory=dict)  # layer -> channels left, channels at first

    @property
    def device(self) -> torch.device:
        return self.examples.x.device
