"""The state of one running search."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness.records import CONTINUES, TrialRecord
from harness.search.budget import Budget
from harness.search.jobs import Finished, Pool
from harness.search.latencies import Latencies
from harness.search.progress import Progress
from harness.search.reference import Reference
from harness.search.rungs import Rule
from harness.search.signals import Stop
from harness.search.study import Proposal, Study
from harness.search.timeline import Timeline
from harness.space.space import Space
from harness.stats.pareto import Front

FAILURES_IN_A_ROW = 10
TIMED = ("latency_ms", "load_ms")
PRICED = ("size_bytes", *TIMED)  # what follows from a file's structure
LAST = 0.25  # of a budget of seconds or epochs: from here on stopped trials go on before new ones begin
LEAST_LANES, MAX_LANES, GROUPS = 4, 16, 150  # two lanes gain less than choosing their form costs


@dataclass
class Run:
    """The state of one running search. A trial goes: ``ahead`` (asked) -> ``priced`` (its size is
    known, its latency waits for the lab) -> ``ready`` -> trained in a group -> ``waiting`` for the lab
    where its latency is still unknown -> told."""

    space: Space
    folder: Path
    study: Study
    pool: Pool
    latencies: Latencies
    progress: Progress
    stop: Stop
    budget: Budget
    front: Front
    reference: Reference
    rule: Rule
    timeline: Timeline
    baselines: list[int] = field(default_factory=list)
    was_baseline: bool = False  # what was proposed last
    open: dict[int, Proposal] = field(default_factory=dict)  # proposed and not yet told
    ahead: list[Proposal] = field(default_factory=list)
    pricing: set[int] = field(default_factory=set)  # jobs that find out what a recipe costs
    priced: list[TrialRecord] = field(default_factory=list)
    ready: list[Proposal] = field(default_factory=list)
    groups: dict[int, list[int]] = field(default_factory=dict)  # job -> the trials that train in it
    held: list[Finished] = field(default_factory=list)  # groups at a rung that wait for a decision
    waiting: list[TrialRecord] = field(default_factory=list)
    costs: dict[int, TrialRecord] = field(default_factory=dict)  # what is known before training
    attempts: dict[int, int] = field(default_factory=dict)
    taken_up: int = 0  # stopped trials that go on, in this run
    homes: dict[int, int] = field(default_factory=dict)  # stopped trial -> the slot that keeps its student
    finished: int = 0
    stopped: int = 0  # of the finished ones: before their end
    failed: int = 0
    epochs: int = 0  # trained, all trials together
    failures_in_a_row: int = 0
    exhausted: bool = False
    told: int = 0
    told_at_wait: int = 0  # how many were told when the first began to wait for the lab
    waits_since: float = 0.0  # when that was
    sweep: list[int] = field(default_factory=list)  # baselines that finished
    ever: set[int] = field(default_factory=set)  # were on the front at some time

    @property
    def lanes(self) -> int:
        """How many trials to train side by side: as many as leave enough groups for the sampler to
        learn from (``search.lanes`` sets it)."""
        if self.space.settings.lanes is not None:
            return self.space.settings.lanes
        expected = self.budget.expected(self.finished, self.epochs, self.told)
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
        if self.stop.asked or self.exhausted or self.failures_in_a_row >= FAILURES_IN_A_ROW:
            return False
        if self.budget.spent(self._epochs_begun):
            return False
        # a resumed study's waiting ones were not opened here
        opened = {n for n, p in self.open.items() if p.continues is None}  # the others are no further trials
        unfinished = opened | {r.number for r in self.waiting if CONTINUES not in r.diagnostics}
        return self.budget.trials is None or self.finished + len(unfinished) < self.budget.trials

    @property
    def closing(self) -> bool:
        """May stopped trials be taken up again? When all trials have begun, or LAST of the seconds or epochs
        is left."""
        if self.stop.asked or self.failures_in_a_row >= FAILURES_IN_A_ROW or self.budget.spent(self._epochs_begun):
            return False
        return not self.wanted or self.budget.share(self._epochs_begun) >= 1 - LAST

    @property
    def _epochs_begun(self) -> int:
        return self.epochs + sum(p.epochs for p in self.open.values())
