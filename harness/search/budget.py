"""When a search has enough."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from harness.errors import SpaceError
from harness.space.settings import Settings


@dataclass(frozen=True)
class Budget:
    """When a search has enough: trials of the study, epochs trained in it, seconds of this run.
    None sets no limit; what is reached first ends the search."""

    trials: int | None
    epochs: int | None = None
    seconds: float | None = None
    started: float = field(default_factory=lambda: time.monotonic())

    @staticmethod
    def of(settings: Settings, trials: int | None = None) -> Budget:
        if trials is not None and trials < 1:
            raise SpaceError("trials", "must be at least 1", trials, "Leave it out for the space's own.")
        limited = settings.time_s is not None or settings.epochs_total is not None
        wanted = trials or settings.trials or (None if limited else 60)
        return Budget(wanted, settings.epochs_total, settings.time_s)

    def expected(self, finished: int, epochs: int, told: int) -> float:
        """How many trials the budget is worth: from the ``finished`` trials and their ``epochs``, and
        from how fast this run has ``told`` its own; 0 while that is not known."""
        known = [] if self.trials is None else [float(self.trials)]
        if self.epochs is not None:
            known.append(self.epochs * finished / epochs if epochs else 0.0)
        if self.seconds is not None:
            known.append(self.seconds * told / (time.monotonic() - self.started))
        return min(known)

    def spent(self, epochs: int) -> bool:
        """No new trial may start, however few there are."""
        return self.share(epochs) >= 1

    def share(self, epochs: int) -> float:
        """How much of the seconds or of the epochs is gone; 0 without such a limit."""
        late = 0.0 if self.seconds is None else (time.monotonic() - self.started) / self.seconds
        return max(late, 0.0 if self.epochs is None else epochs / self.epochs)
