"""Early stopping for several objectives: the interface of the stopping rules.

A rung is a share of a trial's epochs after which its validation accuracy is recorded. If the structure is known before
training, so are size and latency, and a rule only has to predict accuracy. Rules do not depend on Optuna or Ray, so
benchmarks replay them on recorded curves.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

NEVER_STOPPED = 0.1  # share of exempt trials: more train in vain, with fewer the finished trials are less typical
RUNGS = 20  # parts of a trial: a rung after every epoch of a short trial, after every 5 % of a long one


def never_stopped(seed: int, number: int) -> bool:
    """Whether the trial is one of those, chosen at random, that are never stopped."""
    return random.Random(f"{seed} {number} never stopped").random() < NEVER_STOPPED


@dataclass
class Curve:
    """What a rule knows of one trial.

    costs    objectives other than accuracy, as losses; None if they are not known before training ends
    exempt   0 if the trial may be stopped; else it is never stopped, and this is the probability of that
    places   the trial's parameters, each scaled to [0, 1]; None if the space cannot express the trial
    rungs    rung -> accuracy
    final    accuracy after the last epoch; None until then
    flagged  the rule would have stopped the trial if it were not exempt
    resumed  the trial was stopped and then resumed
    """

    costs: tuple[float, ...] | None
    exempt: float = 0.0
    places: tuple[float, ...] | None = ()
    rungs: dict[int, float] = field(default_factory=dict)
    final: float | None = None
    flagged: bool = False
    resumed: bool = False


class Rule(Protocol):
    """Decides at rungs which trials stop, from the curves of earlier trials.

    uses_costs  the rule needs a trial's costs before it trains
    often       a trial reaches a rung every few epochs
    resumes    stopped trials may be resumed
    """

    uses_costs: bool
    often: bool
    resumes: bool

    def begin(self, number: int, curve: Curve) -> None:
        """A trial starts."""
        ...

    def rungs(self, total: int) -> dict[int, int]:
        """Epoch -> rung: the epochs after which accuracy is recorded, ascending and below ``total``.

        A rung's number stands for the same share of the epochs in trials of all lengths.
        """
        ...

    def decide(self, number: int, rung: int, accuracy: float) -> str:
        """The reason to stop the trial at this rung; empty if it continues."""
        ...

    def flagged(self, number: int) -> bool:
        """Whether a running trial would have been stopped if it were not exempt."""
        ...

    def learn(self, number: int, curve: Curve, final: float | None, feasible: bool) -> None:
        """A trial has ended.

        Args:
            curve: from the trial's record. In a resumed study, :meth:`begin` was not called for earlier trials.
            final: its accuracy; None if it was stopped.
            feasible: whether it meets the constraints.
        """
        ...

    def due(self) -> list[int]:
        """Stopped trials that the rule would no longer stop, the most promising first."""
        ...

    def resume(self, number: int) -> Curve | None:
        """A stopped trial is resumed under another number. Forget it, and return the curve for :meth:`begin`; None if
        it is not known."""
        ...


class Never:
    """``stop: none``."""

    uses_costs = False
    often = False
    resumes = False

    def begin(self, number: int, curve: Curve) -> None:
        pass

    def rungs(self, total: int) -> dict[int, int]:
        return {}

    def decide(self, number: int, rung: int, accuracy: float) -> str:
        return ""

    def flagged(self, number: int) -> bool:
        return False

    def learn(self, number: int, curve: Curve, final: float | None, feasible: bool) -> None:
        pass

    def due(self) -> list[int]:
        return []

    def resume(self, number: int) -> Curve | None:
        return None


def as_costs(values: Sequence[float | None]) -> tuple[float, ...] | None:
    """The costs of a trial; None if one of them is unknown."""
    known = [v for v in values if v is not None]
    return tuple(known) if len(known) == len(values) else None
