"""One running search: its services and its state."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness.search.budget import Budget
from harness.search.counts import Counts, Results
from harness.search.jobs import Pool
from harness.search.latencies import Latencies
from harness.search.progress import Progress
from harness.search.queues import LabQueue, TrialQueue
from harness.search.rungs import Rule
from harness.search.signals import Stop
from harness.search.study import Study
from harness.search.timeline import Timeline
from harness.search.tracking import Tracking
from harness.space.space import Space

FAILURES_IN_A_ROW = 10  # failed trials in a row after which the search starts no more
TIMED = ("latency_ms", "load_ms")
PRICED = ("size_bytes", *TIMED)  # what follows from a file's structure
LAST = 0.25  # last share of a budget of seconds or epochs, in which resumed trials come before new ones
# Groups: the sampler needs so many different structures to learn from. Fewer than LEAST_LANES lanes gain less time than
# choosing their form costs.
LEAST_LANES, MAX_LANES, GROUPS = 4, 16, 150


@dataclass(frozen=True)
class Search:
    """One running search. Its state: ``trials``, ``lab_queue``, ``counts``, ``results``; the rest are services."""

    space: Space
    folder: Path
    study: Study
    pool: Pool
    latencies: Latencies
    progress: Progress
    stop: Stop
    budget: Budget
    rule: Rule
    timeline: Timeline
    results: Results
    counts: Counts = field(default_factory=Counts)
    trials: TrialQueue = field(default_factory=TrialQueue)
    lab_queue: LabQueue = field(default_factory=LabQueue)
    tracking: Tracking = field(default_factory=Tracking)

    @property
    def lanes(self) -> int:
        """How many trials train side by side: ``search.lanes``, else as many as leave GROUPS groups in the budget."""
        if self.space.settings.lanes is not None:
            return self.space.settings.lanes
        expected = self.budget.expected(self.counts.finished, self.counts.epochs, self.counts.told)
        lanes = min(MAX_LANES, int(expected / GROUPS))
        return lanes if lanes >= LEAST_LANES else 1

    @property
    def prices(self) -> bool:
        """Whether size and latency are needed before training, for a constraint or for the stopping rule."""
        constrained = any(name in PRICED for name in self.space.constraints)
        return constrained or self.rule.uses_costs

    @property
    def needs_latency(self) -> bool:
        """Whether a constraint or an objective needs a latency."""
        timed = any(name in self.space.constraints for name in TIMED)
        return timed or any(o.name in TIMED for o in self.space.objectives)

    @property
    def wanted(self) -> bool:
        """Whether another trial may start."""
        if self._ends or self.trials.exhausted:
            return False
        # a continuation is not a further trial; in a resumed study, trials that wait for the lab are not in ``open``
        opened = {number for number, p in self.trials.open.items() if p.continues is None}
        unfinished = opened | self.lab_queue.new_trials()
        return self.budget.trials is None or self.counts.finished + len(unfinished) < self.budget.trials

    @property
    def closing(self) -> bool:
        """Whether stopped trials may be resumed: all trials have started, or only LAST of the budget is left."""
        if self._ends:
            return False
        return not self.wanted or self.budget.share(self._epochs_begun) >= 1 - LAST

    @property
    def _ends(self) -> bool:
        """Whether nothing more may start."""
        failing = self.counts.failures_in_a_row >= FAILURES_IN_A_ROW
        return self.stop.asked or failing or self.budget.spent(self._epochs_begun)

    @property
    def _epochs_begun(self) -> int:
        return self.counts.epochs + sum(p.epochs for p in self.trials.open.values())
