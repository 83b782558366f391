"""The loop of a search: keep every slot busy, tell what comes back, measure when it is quiet.

Latency is measured at barriers, when no slot is busy and enough new structures wait for the lab.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from optuna.trial import TrialState

from harness.errors import TrialError
from harness.pareto import Front
from harness.records import TrialRecord, read_record
from harness.search import finish, resume
from harness.search.latencies import Latencies
from harness.search.pool import Finished
from harness.search.progress import Progress
from harness.search.signals import Stop
from harness.search.study import Proposal, Study
from harness.space import Space

log = logging.getLogger(__name__)
FAILURES_IN_A_ROW = 10
PATIENCE = 4  # trials told per slot while a new structure waits for the lab


class Pool(Protocol):
    """What the driver needs of its workers (``RayPool``; tests bring a simpler one)."""

    @property
    def free(self) -> int: ...
    @property
    def running(self) -> list[int]: ...
    def share(self, logits: Mapping[str, Any]) -> None: ...
    def submit(self, job: int, name: str, *args: Any, logits: bool = False) -> None: ...
    def call(self, name: str, *args: Any) -> Any: ...
    def wait(self, timeout_s: float) -> list[Finished]: ...
    def close(self) -> None: ...


@dataclass
class Run:
    """The state of one running search."""

    space: Space
    folder: Path
    study: Study
    pool: Pool
    latencies: Latencies
    progress: Progress
    stop: Stop
    budget: int
    front: Front
    reference: finish.Reference
    baselines: list[int] = field(default_factory=list)
    open: dict[int, Proposal] = field(default_factory=dict)  # proposed and not yet told
    ahead: list[Proposal] = field(default_factory=list)
    waiting: list[TrialRecord] = field(default_factory=list)
    attempts: dict[int, int] = field(default_factory=dict)
    finished: int = 0
    failed: int = 0
    failures_in_a_row: int = 0
    exhausted: bool = False
    told: int = 0
    told_at_wait: int = 0  # how many were told when the first of ``waiting`` began to wait
    sweep: list[int] = field(default_factory=list)  # baselines that finished


def trial_folder(folder: Path, number: int) -> Path:
    return folder / "trials" / f"{number:05d}"


def work_through(run: Run) -> None:
    """Keep every slot busy; stop for a barrier when enough new structures wait for the lab."""
    done = {
        t.user_attrs.get("baseline_index")
        for t in run.study.trials()
        if t.state in (TrialState.COMPLETE, TrialState.PRUNED) or "final" in t.user_attrs
    }
    run.baselines = [i for i in range(len(run.space.baselines())) if i not in done]
    slots = run.pool.free
    while True:
        structures = len({r.structure for r in run.waiting})
        barrier = structures >= 2 * slots or (structures and run.told - run.told_at_wait >= PATIENCE * slots)
        if not barrier:
            _fill_slots(run)
        if not run.pool.running:
            if not run.waiting:
                break
            measure(run)
            continue
        for answer in run.pool.wait(0.5 if run.ahead or not _wanted(run) else 0.0):
            if not barrier:
                _fill_slots(run)
            _collect(run, answer)
        if run.stop.now:
            break
        if _wanted(run) and len(run.ahead) < 1 and not barrier:
            _ask_ahead(run)
        run.progress.update(run.finished, run.failed, len(run.front.numbers), run.reference.hypervolume(run.front))
    for proposal in run.ahead:
        run.study.fail(proposal.number, "not started", final=False)


def _wanted(run: Run) -> int:
    """How many more trials to start."""
    if run.stop.asked or run.exhausted or run.failures_in_a_row >= FAILURES_IN_A_ROW:
        return 0
    unfinished = {*run.open, *(r.number for r in run.waiting)}  # a resumed study's waiting ones were not opened here
    return max(0, run.budget - run.finished - len(unfinished))


def _ask_ahead(run: Run) -> None:
    proposal = run.study.baseline(run.baselines.pop(0)) if run.baselines else run.study.propose()
    if proposal is None:
        run.exhausted = True
        run.progress.say("every recipe that the sampler proposes has run: the space is exhausted")
    else:
        run.open[proposal.number] = proposal
        run.ahead.append(proposal)


def _fill_slots(run: Run) -> None:
    while run.pool.free and not run.stop.asked:
        if not run.ahead:
            if not _wanted(run):
                return
            _ask_ahead(run)
        if not run.ahead:
            return
        _submit(run, run.ahead.pop(0))


def _submit(run: Run, proposal: Proposal) -> None:
    run.pool.submit(
        proposal.number,
        "run",
        proposal.recipe.to_tree(),
        proposal.number,
        proposal.params,
        proposal.baseline,
        str(trial_folder(run.folder, proposal.number).resolve()),
        logits=True,
    )


def _collect(run: Run, answer: Finished) -> None:
    """Take a job's answer; a worker that died may have left its record all the same."""
    proposal = run.open[answer.job]
    record = None if answer.error else TrialRecord.model_validate(answer.value)
    if record is None and answer.died:
        record = read_record(trial_folder(run.folder, answer.job))
    if record is not None:
        take(run, record)
        return
    attempt = run.attempts.get(answer.job, 0)
    if answer.died and attempt < run.space.settings.retries and not run.stop.asked:
        run.attempts[answer.job] = attempt + 1
        run.ahead.insert(0, proposal)  # its slot may be busy again
        return
    failed = TrialRecord(
        number=answer.job,
        status="failed",
        reason=answer.error,
        baseline=proposal.baseline,
        recipe=proposal.recipe.to_tree(),
        params=proposal.params,
        seed=proposal.recipe.seed,
    )
    take(run, failed)


def take(run: Run, record: TrialRecord) -> None:
    """Tell a record, or let it wait for the lab where its structure is new."""
    if record.status != "ok":
        resume.write_failed(trial_folder(run.folder, record.number), record)
        _tell(run, record)
    elif "latency_ms" in record.measurements:
        _tell(run, record)
    elif run.latencies.known(record) is not None:
        _tell(run, run.latencies.complete(record, trial_folder(run.folder, record.number)))
    else:
        run.told_at_wait = run.told_at_wait if run.waiting else run.told
        run.waiting.append(record)


def measure(run: Run) -> None:
    """The barrier: no slot is busy, so the machine is quiet."""
    waiting, run.waiting = run.waiting, []
    run.latencies.teacher(run.space, run.folder)
    try:
        run.latencies.measure(waiting, run.folder / "trials")
    except TrialError as error:
        log.warning("%s: measuring file by file", error)
        waiting = [r for r in waiting if _measured_alone(run, r)]
    for record in waiting:
        _tell(run, run.latencies.complete(record, trial_folder(run.folder, record.number)))


def _measured_alone(run: Run, record: TrialRecord) -> bool:
    """One file that the runtime cannot run must not take the others with it."""
    try:
        run.latencies.measure([record], run.folder / "trials")
    except TrialError as error:
        take(run, record.model_copy(update={"status": "failed", "reason": str(error)}))
        return False
    return True


def _tell(run: Run, record: TrialRecord) -> None:
    feasible = run.study.tell(record)
    run.told += 1
    run.open.pop(record.number, None)
    count(run, record, feasible)
    run.progress.trial(record, record.number in run.front.numbers)


def count(run: Run, record: TrialRecord, feasible: bool) -> None:
    """Account for a told record: the front, the reference, the counters."""
    if record.status != "ok":
        run.failed += 1
        run.failures_in_a_row += 1
        return
    run.finished += 1
    run.failures_in_a_row = 0
    if record.baseline == "widest-fp32":
        run.latencies.use_reference(record.file(trial_folder(run.folder, record.number)))
    if record.baseline:
        run.sweep.append(record.number)
    run.reference.see(record)
    if feasible:
        run.front.add(record.number, [record.value(o.name) or 0.0 for o in run.space.objectives])
