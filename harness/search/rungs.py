"""Early stopping for several objectives: which trials go on at a rung, and why not.

A rung is a share of a trial's epochs after which its accuracy is taken. Size and latency are known
before training where the structure is, so a rule asks only what accuracy may still become. Rules are
plain objects without Optuna or Ray: a benchmark replays them on recorded curves.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

NEVER_STOPPED = 0.1  # share of the trials that no rule stops, so that what is learned stays honest
RUNGS = 20  # parts of a trial: every epoch of a short one, every 5 % of a long one


def never_stopped(seed: int, number: int) -> bool:
    """Is the trial among the random ones that train to their end whatever they promise?"""
    return random.Random(f"{seed} {number} never stopped").random() < NEVER_STOPPED


@dataclass
class Curve:
    """What is known of one trial: costs (losses, None where they are not known before the end), its
    parameters as places between 0 and 1 (None where the space cannot express it), accuracy by rung, the
    final accuracy once it finished; ``exempt``: the chance with which such a trial is never stopped, 0
    for one that may be; ``flagged``: the rule would have stopped it, had it not been exempt; ``again``:
    it was stopped and has been taken up again."""

    costs: tuple[float, ...] | None
    exempt: float = 0.0
    places: tuple[float, ...] | None = ()
    rungs: dict[int, float] = field(default_factory=dict)
    final: float | None = None
    flagged: bool = False
    again: bool = False


class Rule(Protocol):
    """Decides at rungs from the curves of the trials that it was told of. ``uses_costs``: it wants them
    before training; ``often``: a trial reaches a rung every few epochs; ``takes_up``: stopped ones may go on."""

    uses_costs: bool
    often: bool
    takes_up: bool

    def begin(self, number: int, curve: Curve) -> None:
        """A trial starts."""
        ...

    def rungs(self, total: int) -> dict[int, int]:
        """The epochs after which accuracy is taken, ascending, below ``total``; each with the number of
        its rung, which is that of the same share in trials of other lengths."""
        ...

    def decide(self, number: int, rung: int, accuracy: float) -> str:
        """Why the trial stops here; empty where it goes on."""
        ...

    def flagged(self, number: int) -> bool:
        """Would a trial that trains have been stopped, had it not been exempt?"""
        ...

    def learn(self, number: int, curve: Curve, final: float | None, feasible: bool) -> None:
        """A trial ended: with its ``final`` accuracy (``feasible``: it may stand on the front), or
        stopped. ``curve`` is what its record says; a resumed study's trials were never begun here."""
        ...

    def due(self) -> list[int]:
        """Stopped trials that would go on by what is known now, the most promising first."""
        ...

    def take_up(self, number: int) -> Curve | None:
        """A stopped trial goes on as another: forget it here; the curve to begin that one with."""
        ...


class Never:
    """``stop: none``."""

    uses_costs = False
    often = False
    takes_up = False

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

    def take_up(self, number: int) -> Curve | None:
        return None


def as_costs(values: Sequence[float | None]) -> tuple[float, ...] | None:
    """Costs of a trial, None where one is not known."""
    known = [v for v in values if v is not None]
    return tuple(known) if len(known) == len(values) else None
