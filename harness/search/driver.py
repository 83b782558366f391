"""The driver: one search from a space to a finished study folder. Reads top to bottom.

    lock -> open (or resume) -> Ray -> prepare -> [ask -> run -> measure -> tell] * trials -> finish

Only this process writes the study. A worker writes its record before it answers, so whatever is
killed, a finished trial is found again. Latency is measured at barriers, when no slot is busy.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path
from typing import Any, Protocol

from optuna.trial import TrialState

from harness.deploy.latency import Lab
from harness.deploy.runtimes import environment
from harness.errors import HarnessError, SpaceError, TrialError
from harness.pareto import Front
from harness.recipe import parse_recipe
from harness.records import TrialRecord, read_record, write_bytes_durably, write_json_durably
from harness.search import finish, resume
from harness.search.latencies import Latencies
from harness.search.lock import run_lock
from harness.search.pool import Finished, RayPool, connect
from harness.search.progress import Progress
from harness.search.signals import Stop
from harness.search.study import Proposal, Study
from harness.space import Space

log = logging.getLogger(__name__)
MAX_TEACHERS = 16
FAILURES_IN_A_ROW = 10
PATIENCE = 4  # trials told per slot while a new structure waits for the lab
TRIAL_MODULE = "harness.trial"


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


@dataclass(frozen=True)
class Outcome:
    """How a search ended: ``status`` complete, already complete, interrupted or exhausted."""

    folder: Path
    status: str
    finished: int
    failed: int
    front: list[int]
    exit_code: int = 0


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


def search(
    space: Space,
    folder: Path | str,
    *,
    address: str | None = None,
    trials: int | None = None,
    progress: bool = True,
    rebuild: bool = False,
    module: str = TRIAL_MODULE,
    lab: Callable[[], Lab] = Lab,
    make_pool: Callable[[Space, str | None, str], Pool] | None = None,
) -> Outcome:
    """Search ``space`` in the study ``folder``; continues what is there.

    Args:
        address: of a running Ray cluster (HOST:PORT); None starts Ray on this machine.
        trials: finished trials that the study shall have (default: the space's).
        rebuild: make the study's index again from the trials' records.
    Raises:
        SpaceError: nothing was run and nothing is left half-written.
    """
    folder, budget = Path(folder), trials or space.settings.trials
    fresh = not folder.exists()
    try:
        with run_lock(folder):
            resume.check_same_space(space, folder)
            if rebuild:
                resume.rebuild(space, folder)
            done = resume.complete_already(folder, budget)
            if done is not None:
                return Outcome(folder, "already complete", done["finished"], done["failed"], done["front"])
            return _search(
                space, folder, budget, progress, module, lab, lambda: (make_pool or _ray_pool)(space, address, module)
            )
    except SpaceError:
        if fresh and not (folder / "space.yaml").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _ray_pool(space: Space, address: str | None, module: str) -> Pool:
    slots = connect(space.settings.resources, address)
    return RayPool(slots, space.settings.resources, module, space.settings.timeout_s)


def _search(
    space: Space,
    folder: Path,
    budget: int,
    progress: bool,
    module: str,
    lab: Callable[[], Lab],
    make_pool: Callable[[], Pool],
) -> Outcome:
    started = time.monotonic()
    pool = make_pool()
    with Stop() as stop, lab() as measuring, Progress(folder.name, budget, progress) as shown:
        try:
            shown.say("preparing: data, teacher, first export")
            ready = pool.call("prepare", teacher_trees(space), str(folder.resolve()))
            pool.share(ready["logits"])
            run = _open(space, folder, budget, pool, measuring, shown, stop, float(ready["chance"]))
            resume.settle(run.study, folder, space.settings.retries, lambda record: _finished(run, record))
            _loop(run)
            if not stop.now:
                finish.score_front(run.front.numbers, run.sweep, folder, pool)
            return _close(run, started)
        finally:
            pool.close()


def teacher_trees(space: Space) -> list[dict[str, Any]]:
    """One recipe for each teacher that the space can name (at most 16), defaults elsewhere."""
    holes = [h for h in space.holes if h.name.startswith("teacher")]
    trees: dict[str, dict[str, Any]] = {}
    for codes in islice(product(*(h.spread(MAX_TEACHERS) for h in holes)), 256):
        forced = {h.internal: c for h, c in zip(holes, codes, strict=True)}
        params = space.sample(lambda hole, f=forced: f.get(hole.internal, hole.default))
        tree = space.fill(params).to_tree()
        trees.setdefault(repr(tree["teacher"]), tree)
    return list(trees.values())[:MAX_TEACHERS]


def _open(
    space: Space, folder: Path, budget: int, pool: Pool, lab: Lab, progress: Progress, stop: Stop, chance: float
) -> Run:
    write_bytes_durably(folder / "space.yaml", space.text.encode())
    write_json_durably(folder / "environment.json", environment())
    study = Study(space, folder)
    run = Run(
        space,
        folder,
        study,
        pool,
        Latencies(lab, folder),
        progress,
        stop,
        budget,
        Front(tuple(o.direction for o in space.objectives)),
        finish.Reference(space, chance),
    )
    for trial in study.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
        record = read_record(trial_folder(folder, trial.number))
        final = trial.state is not TrialState.FAIL or "final" in trial.user_attrs
        if record is None or not final:
            continue
        study.keys.setdefault(parse_recipe(record.recipe, space.registries).key(), record.number)
        _count(run, record, trial.state is TrialState.COMPLETE)
    return run


def trial_folder(folder: Path, number: int) -> Path:
    return folder / "trials" / f"{number:05d}"


def _loop(run: Run) -> None:
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
            _measure(run)
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
        run.study.fail(proposal.number, "not started")


def _wanted(run: Run) -> int:
    """How many more trials to start."""
    if run.stop.asked or run.exhausted or run.failures_in_a_row >= FAILURES_IN_A_ROW:
        return 0
    return max(0, run.budget - run.finished - len(run.open))


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
        _finished(run, record)
        return
    attempt = run.attempts.get(answer.job, 0)
    if answer.died and attempt < run.space.settings.retries and not run.stop.asked:
        run.attempts[answer.job] = attempt + 1
        _submit(run, proposal)
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
    _finished(run, failed)


def _finished(run: Run, record: TrialRecord) -> None:
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


def _measure(run: Run) -> None:
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
        _finished(run, record.model_copy(update={"status": "failed", "reason": str(error)}))
        return False
    return True


def _tell(run: Run, record: TrialRecord) -> None:
    feasible = run.study.tell(record)
    run.told += 1
    run.open.pop(record.number, None)
    _count(run, record, feasible)
    run.progress.trial(record, record.number in run.front.numbers)


def _count(run: Run, record: TrialRecord, feasible: bool) -> None:
    """Account for a told record: the front, the reference, the counters."""
    if record.status != "ok":
        run.failed += 1
        run.failures_in_a_row += 1
        return
    run.finished += 1
    run.failures_in_a_row = 0
    if record.baseline == "widest-fp32":
        run.latencies.use_reference(trial_folder(run.folder, record.number) / "model.onnx")
    if record.baseline:
        run.sweep.append(record.number)
    run.reference.see(record)
    if feasible:
        run.front.add(record.number, [record.value(o.name) or 0.0 for o in run.space.objectives])


def _close(run: Run, started: float) -> Outcome:
    if run.failures_in_a_row >= FAILURES_IN_A_ROW and not run.finished:
        reason = next(iter(run.study.trials(TrialState.FAIL)[-1:])).user_attrs.get("reason", "")
        raise HarnessError(
            f"{run.folder}: {run.failures_in_a_row} trials failed in a row and none finished. The last one: {reason}"
        )
    status = "interrupted" if run.stop.asked else "exhausted" if run.finished < run.budget else "complete"
    front = sorted(run.front.numbers)
    finish.write_summary(
        run.study,
        run.folder,
        {
            "status": status,
            "finished": run.finished,
            "failed": run.failed,
            "front": front,
            "budget": run.budget,
            "reference": run.reference.point(),
            "hypervolume": run.reference.hypervolume(run.front),
            "wall_s": round(time.monotonic() - started, 1),
            "command": " ".join(["harness", *sys.argv[1:]]),
        },
    )
    return Outcome(run.folder, status, run.finished, run.failed, front, run.stop.exit_code)
