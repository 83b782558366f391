"""What a running search has achieved: how many trials ended how, and the front."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.records import CONTINUES, TrialRecord
from harness.search.reference import Reference
from harness.space.space import Objective
from harness.stats.pareto import Front


def epochs_of(record: TrialRecord) -> int:
    """How many epochs the trial trained itself."""
    return int(record.diagnostics.get("epochs", 0))


@dataclass
class Counts:
    """How many trials ended how.

    finished           with a result; a stopped trial and its continuation count once
    stopped            of these: before their last epoch
    failed             without a result
    failures_in_a_row  failed since the last result
    epochs             trained by all trials together
    told               in this process
    resumed            stopped trials that were resumed, in this process
    """

    finished: int = 0
    stopped: int = 0
    failed: int = 0
    failures_in_a_row: int = 0
    epochs: int = 0
    told: int = 0
    resumed: int = 0

    def add(self, record: TrialRecord) -> None:
        """Count a trial that ended."""
        self.epochs += epochs_of(record)
        if record.status == "failed":
            self.failed += 1
            self.failures_in_a_row += 1
            return
        self.failures_in_a_row = 0
        if CONTINUES in record.diagnostics:
            self.stopped -= 1  # the stopped trial that it continues
        else:
            self.finished += 1
        if record.status == "stopped":
            self.stopped += 1


@dataclass
class Results:
    """The points of the search.

    front      the feasible trials that no other dominates
    reference  the hypervolume's reference point
    ever       trials that were on the front at some time
    sweep      baselines that finished
    """

    front: Front
    reference: Reference
    ever: set[int] = field(default_factory=set)
    sweep: list[int] = field(default_factory=list)

    def add(self, record: TrialRecord, objectives: tuple[Objective, ...], feasible: bool) -> None:
        """Take the result of a trial that trained to its end."""
        if record.baseline:
            self.sweep.append(record.number)
        self.reference.see(record)
        if feasible and self.front.add(record.number, [record.value(o.name) or 0.0 for o in objectives]):
            self.ever.add(record.number)

    @property
    def hypervolume(self) -> float:
        return self.reference.hypervolume(self.front)
