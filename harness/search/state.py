"""One running search: its services, and its state in parts that each keep their own rules."""

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
from harness.space.space import Space

FAILURES_IN_A_ROW = 10
TIMED = ("latency_ms", "load_ms")
PRICED = ("size_bytes", *TIMED)  # what follows from a file's structure
LAST = 0.25  # of a budget of seconds or epochs: from here on stopped trials go on before new ones begin
LEAST_LANES, MAX_LANES, GROUPS = 4, 16, 150  # two lanes gain less than choosing their form costs


@dataclass(frozen=True)
class Run:
    """One running search. The services say and do; ``trials``, ``lab``, ``counts`` and ``results`` are its state."""

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
    lab: LabQueue = field(default_factory=LabQueue)

    @property
    def lanes(self) -> int:
        """How many trials to train side by side: as many as leave enough groups for the sampler to
        learn from (``search.lanes`` sets it)."""
        if self.space.settings.lanes is not None:
            return self.space.settings.lanes
        expected = self.budget.expected(self.counts.finished, self.counts.epochs, self.counts.told)
        lanes = min(MAX_LANES, int(expected / GROUPS))
        return lanes if lanes >= LEAST_LANES else 1

    @property
    def prices(self) -> bool:
        """Is a recipe's cost of use before it trains? For a constraint, or for a rule that stops."""
        constrained = any(name in PRICED for name in self.space.constraints)
        return constrained or self.rule.uses_costs

    @property
    def needs_latency(self) -> bool:
        timed = any(name in self.space.constraints for name in TIMED)
        return timed or any(o.name in TIMED for o in self.space.objectives)

    @property
    def wanted(self) -> bool:
        """May another trial start?"""
        if self._ends or self.trials.exhausted:
            return False
        # continuations are no further trials; a resumed study's waiting ones were not opened here
        opened = {number for number, p in self.trials.open.items() if p.continues is None}
        unfinished = opened | self.lab.new_trials()
        return self.budget.trials is None or self.counts.finished + len(unfinished) < self.budget.trials

    @property
    def closing(self) -> bool:
        """May stopped trials be resumed? When all trials have begun, or LAST of the seconds or epochs is left."""
        if self._ends:
            return False
        return not self.wanted or self.budget.share(self._epochs_begun) >= 1 - LAST

    @property
    def _ends(self) -> bool:
        """Must nothing more begin?"""
        failing = self.counts.failures_in_a_row >= FAILURES_IN_A_ROW
        return self.stop.asked or failing or self.budget.spent(self._epochs_begun)

    @property
    def _epochs_begun(self) -> int:
        return self.counts.epochs + sum(p.epochs for p in self.trials.open.values())
