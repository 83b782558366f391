"""Trials on their way from a proposal to the study.

A trial is proposed (``ahead``). Where the search needs its size and latency before it trains, it is priced. Then it is
``ready``, and trains in a group. Where its structure is new, it then waits for the lab in :class:`LabQueue`. It is open
until it is told.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.records import CONTINUES, TrialRecord
from harness.search.jobs import Finished
from harness.search.lane_groups import lane_key
from harness.search.study import Proposal

PATIENCE = 4  # a barrier is due once so many trials per slot were told, or began to wait, since the first began to wait
PATIENCE_S = 5.0  # with frequent rungs it is due after this time already, because a barrier then costs little


@dataclass
class TrialQueue:
    """Trials that are proposed and not yet told.

    baselines     indices into ``space.baselines()`` that are still to be proposed
    was_baseline  the latest proposal was a baseline
    exhausted     the sampler proposes only recipes that have already run
    open          every trial that is proposed and not yet told
    ahead         proposed, not yet priced or ready
    pricing       a worker computes their size and structure
    ready         may train
    groups        leader -> the trials that train with it, itself included
    held          groups at a rung, which wait for a decision
    costs         size and latency of an open trial, known before it trains
    attempts      how often a trial's worker died
    slots         stopped trial -> the slot whose worker keeps its student
    """

    baselines: list[int] = field(default_factory=list)
    was_baseline: bool = False
    exhausted: bool = False
    open: dict[int, Proposal] = field(default_factory=dict)
    ahead: list[Proposal] = field(default_factory=list)
    pricing: set[int] = field(default_factory=set)
    ready: list[Proposal] = field(default_factory=list)
    groups: dict[int, list[int]] = field(default_factory=dict)
    held: list[Finished] = field(default_factory=list)
    costs: dict[int, TrialRecord] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)

    def propose(self, proposals: Sequence[Proposal]) -> None:
        """Open new trials."""
        self.open |= {p.number: p for p in proposals}
        self.ahead += proposals

    def resume(self, proposal: Proposal, stopped: TrialRecord) -> None:
        """Open the continuation of a stopped trial, whose costs are known."""
        self.open[proposal.number], self.costs[proposal.number] = proposal, stopped

    def begin_pricing(self, proposal: Proposal) -> None:
        """A worker computes the trial's size and structure."""
        self.pricing.add(proposal.number)

    def end_pricing(self, number: int) -> Proposal:
        """The worker has answered. The caller decides whether the trial gets ready."""
        self.pricing.remove(number)
        return self.open[number]

    def set_costs(self, record: TrialRecord) -> None:
        """Size and latency of an open trial are known before it trains."""
        self.costs[record.number] = record

    def make_ready(self, number: int) -> None:
        """The trial may train."""
        self.ready.append(self.open[number])

    def retry(self, proposal: Proposal) -> None:
        """The trial trains next, in any slot, because its worker died."""
        self.ready.insert(0, proposal)

    def begin_group(self, group: Sequence[Proposal]) -> None:
        """The trials train together. The group goes by the number of its first trial."""
        self.groups[group[0].number] = [p.number for p in group]

    def end_trial(self, leader: int, number: int) -> None:
        """A trial of the group has ended."""
        self.groups[leader].remove(number)

    def end_group(self, leader: int) -> list[Proposal]:
        """The group's job has ended. Return its trials that have not ended."""
        return [self.open[number] for number in self.groups.pop(leader)]

    def hold(self, answer: Finished) -> None:
        """The group waits at a rung."""
        self.held.append(answer)

    def close(self, number: int) -> None:
        """The trial is told."""
        self.open.pop(number, None)
        self.costs.pop(number, None)

    def take_group(self, lanes: int) -> list[Proposal]:
        """Remove the first ready trial and up to ``lanes`` - 1 others of its structure."""
        key = lane_key(self.ready[0].recipe)
        group = [p for p in self.ready if lane_key(p.recipe) == key][:lanes]
        self.ready = [p for p in self.ready if p not in group]
        return group

    def take_held(self) -> list[Finished]:
        """Remove the groups that wait at a rung."""
        held, self.held = self.held, []
        return held

    def leader(self, job: int) -> Proposal:
        """A trial of the group that still trains, its leader first."""
        return self.open.get(job) or self.open[self.groups[job][0]]

    def keep_student(self, number: int, slot: int) -> None:
        """The slot's worker keeps the student of a stopped trial."""
        self.slots[number] = slot

    def lose_slot(self, slot: int) -> None:
        """Forget the students that the slot's worker kept; the worker may have died."""
        self.slots = {number: kept for number, kept in self.slots.items() if kept != slot}

    def lose_worker(self, number: int, retries: int) -> bool:
        """Count that a trial's worker died. True if the trial may be tried once more."""
        tried = self.attempts.get(number, 0)
        if tried >= retries:
            return False
        self.attempts[number] = tried + 1
        return True

    def unbegun(self, waiting: Sequence[TrialRecord]) -> list[int]:
        """Open trials that neither train nor wait for the lab."""
        begun = {*(n for group in self.groups.values() for n in group), *(r.number for r in waiting)}
        return [number for number in self.open if number not in begun]


@dataclass
class LabQueue:
    """Trials of new structures, whose latency the lab measures at the next barrier.

    trained    they are told when their latency is known
    untrained  they train when it is known
    """

    trained: list[TrialRecord] = field(default_factory=list)
    untrained: list[TrialRecord] = field(default_factory=list)
    _told: int = 0  # how many trials had been told when the first came here
    _since_s: float = 0.0  # when that was, by the monotonic clock

    def add_trained(self, record: TrialRecord, told: int) -> None:
        self._begin(told)
        self.trained.append(record)

    def add_untrained(self, record: TrialRecord, told: int) -> None:
        self._begin(told)
        self.untrained.append(record)

    def _begin(self, told: int) -> None:
        if not self.trained and not self.untrained:
            self._told, self._since_s = told, time.monotonic()

    @property
    def structures(self) -> int:
        """How many different structures wait."""
        return len({r.structure for r in (*self.trained, *self.untrained)})

    def is_due(self, slots: int, told: int, stops_often: bool) -> bool:
        """Whether a barrier is due: two structures per slot wait, or the first has waited long enough."""
        if not self.structures:
            return False
        late = stops_often and time.monotonic() - self._since_s > PATIENCE_S
        passed = told - self._told + len(self.trained) + len(self.untrained)
        return self.structures >= 2 * slots or late or passed >= PATIENCE * slots

    def take(self) -> tuple[list[TrialRecord], list[TrialRecord]]:
        """Remove and return all waiting trials: trained, untrained."""
        trained, untrained = self.trained, self.untrained
        self.trained, self.untrained = [], []
        return trained, untrained

    def put_back(self, trained: list[TrialRecord], untrained: list[TrialRecord]) -> None:
        """Restore the trials that :meth:`take` removed, after an interrupted measurement."""
        self.trained, self.untrained = trained, untrained

    def new_trials(self) -> set[int]:
        """The trained ones, without continuations of stopped trials."""
        return {r.number for r in self.trained if CONTINUES not in r.diagnostics}
