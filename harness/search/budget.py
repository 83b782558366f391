"""The budget of a search."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from harness.errors import SpaceError
from harness.space.settings import Settings


@dataclass(frozen=True)
class Budget:
    """When a search ends: at the first limit that is reached. None means no limit.

    trials   finished trials of the study
    epochs   trained in the study
    seconds  of this run
    """

    trials: int | None
    epochs: int | None = None
    seconds: float | None = None
    started: float = field(default_factory=lambda: time.monotonic())

    @staticmethod
    def of(settings: Settings, trials: int | None = None) -> Budget:
        """The budget in ``settings``, with ``trials`` in place of theirs if given. Without any limit: 60 trials."""
        if trials is not None and trials < 1:
            raise SpaceError("trials", "must be at least 1", trials, "Leave it out for the space's own.")
        limited = settings.time_s is not None or settings.epochs_total is not None
        trial_limit = trials or settings.trials or (None if limited else 60)
        return Budget(trial_limit, settings.epochs_total, settings.time_s)

    def expected(self, finished: int, epochs: int, told: int) -> float:
        """How many trials the budget allows, estimated from the ``epochs`` of the ``finished`` trials and from the
        pace of this run, which has ``told`` so many; 0 while unknown."""
        limits = [] if self.trials is None else [float(self.trials)]
        if self.epochs is not None:
            limits.append(self.epochs * finished / epochs if epochs else 0.0)
        if self.seconds is not None:
            limits.append(self.seconds * told / (time.monotonic() - self.started))
        return min(limits)

    def spent(self, epochs: int) -> bool:
        """Whether the limit of epochs or seconds is reached, so that no new trial may start."""
        return self.share(epochs) >= 1

    def share(self, epochs: int) -> float:
        """Share of the seconds or epochs that is used, whichever is larger; 0 without such a limit."""
        late = 0.0 if self.seconds is None else (time.monotonic() - self.started) / self.seconds
        return max(late, 0.0 if self.epochs is None else epochs / self.epochs)
