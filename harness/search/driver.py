"""The driver: one search from a space to a finished study folder. Read it from top to bottom.

    check -> lock -> examine -> Ray -> prepare -> open (or resume) -> [ask -> run -> measure -> tell] * trials -> finish

Only this process writes the study. A worker writes its record before it answers, so a finished trial is found again
after any process was killed.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from harness.errors import DiskError, HarnessError, SpaceError, disk_error
from harness.files.access import remove_temporaries
from harness.files.checksums import write_checked_json
from harness.files.folders import check_cache, check_home
from harness.files.passwords import masked
from harness.machine.host import peak_memory_mib
from harness.measure.lab import Lab
from harness.search import finish, first_trials, preflight, resume
from harness.search.account import receive
from harness.search.budget import Budget
from harness.search.cluster import ClusterLost, connect
from harness.search.examination import Examination, say_loaded, say_proven
from harness.search.jobs import Pool
from harness.search.last_words import last_words
from harness.search.lock import mark_draining, run_lock
from harness.search.loop import work_through
from harness.search.opening import open_search
from harness.search.pool import RayPool
from harness.search.progress import Progress
from harness.search.rules import rule_of
from harness.search.rungs import Never, Rule
from harness.search.signals import Interrupted, Stop
from harness.search.state import FAILURES_IN_A_ROW, Search
from harness.search.tracking import Tracking, open_trackers
from harness.space import trust
from harness.space.space import Space
from harness.trial.job import Prepared

log = logging.getLogger(__name__)
TRIAL_MODULE = "harness.trial.run"


@dataclass(frozen=True)
class Outcome:
    """How a search ended. ``status``: complete, already complete, interrupted or exhausted."""

    folder: Path
    status: str
    finished: int
    failed: int
    front: list[int]
    exit_code: int = 0
    stopped: int = 0  # of the finished ones: before their last epoch


@dataclass(frozen=True)
class _Services:
    """The services of a search, besides its space and folder."""

    examination: Examination
    lab: Callable[[], Lab]
    pool: Callable[[], Pool]
    rule: Callable[[Space], Rule]


def search(
    space: Space,
    folder: Path | str,
    *,
    address: str | None = None,
    trials: int | None = None,
    progress: bool = True,
    rebuild: bool = False,
    warm_start: Path | None = None,
    module: str = TRIAL_MODULE,
    examine: Callable[..., Examination] = Examination,
    lab: Callable[[], Lab] = Lab,
    make_pool: Callable[[Space, str | None, str], Pool] | None = None,
    make_rule: Callable[[Space], Rule] = rule_of,
) -> Outcome:
    """Search ``space`` in the study ``folder``. An existing study is continued.

    Args:
        address: of a running Ray cluster (HOST:PORT); None starts Ray on this machine.
        trials: number of finished trials at which the study is complete (default: the space's).
        rebuild: rebuild the study's index from the trials' records.
        warm_start: folder of an earlier study; the points of its front are tried first.
        module, examine, lab, make_pool, make_rule: replaced by tests and benchmarks.
    Raises:
        SpaceError: the space, the folder or an argument is wrong. No trial has run, and nothing is half-written.
        ClusterLost: Ray has died. Finished trials are kept; the same call continues the study.
        Interrupted: a signal arrived before the first trial.
        DiskError: the disk is full or read-only. Finished trials are kept; the same call continues the study.
    """
    folder, budget = Path(folder), Budget.of(space.settings, trials)
    fresh, pool = not folder.exists(), make_pool or _ray_pool
    check_cache()
    if fresh:  # before anything is written
        preflight.check_given(space)
    with (
        _in_words(space, folder),
        run_lock(folder),
        last_words(f"harness: {folder}: the search was killed. {_go_on()}"),
    ):
        try:
            done = _before(space, folder, budget, rebuild, fresh)
            if done is not None:
                counts = (done[name] for name in ("finished", "failed", "front"))
                return Outcome(folder, "already complete", *counts, stopped=done.get("stopped", 0))
            trust.remember(folder, trust.named_code(space.source.tree))
            with examine(module, preflight.looked_at(space)) as seen:
                services = _Services(seen, lab, partial(pool, space, address, module), make_rule)
                return _search(space, folder, budget, progress, warm_start, services)
        finally:
            if fresh and not (folder / "space.yaml").exists():
                shutil.rmtree(folder, ignore_errors=True)
            remove_temporaries(folder)


def _before(space: Space, folder: Path, budget: Budget, rebuild: bool, fresh: bool) -> dict[str, Any] | None:
    """Check that the study in ``folder`` can be continued. Return its summary if it is already complete, else None."""
    resume.check_same_space(space, folder)
    if rebuild:
        resume.rebuild(space, folder)
    done = resume.complete_already(folder, budget)
    if done is None and not fresh:
        preflight.check_given(space)
        resume.check_same_code(space, folder)
        resume.check_same_words(space, folder)
    return done


@contextlib.contextmanager
def _in_words(space: Space, folder: Path) -> Iterator[None]:
    """Add to errors the line in the space, what was kept, and what to do next."""
    try:
        yield
    except (OSError, DiskError) as error:
        known = error if isinstance(error, DiskError) else disk_error(error, denied=True)
        if known is None:
            raise
        rule = f"{folder}: the search ended: the disk cannot be written ({known.args[0]}). Finished trials are kept"
        raise DiskError(rule) from None
    except ClusterLost as error:
        raise ClusterLost(f"{folder}: the search ended: {error}. {_go_on()}") from None
    except SpaceError as error:
        if error.path.split(".")[0] in space.source.tree:
            space.source.place(error, error.path.split("."))
        raise


def _go_on() -> str:
    return f"Finished trials are kept. Continue with: {_command()}"


def _command() -> str:
    """This process's command line, with passwords masked."""
    return masked(shlex.join(["harness", *sys.argv[1:]]))


def _ray_pool(space: Space, address: str | None, module: str) -> Pool:
    if address is None:
        check_home()
    slots = connect(space.settings.resources, address)
    return RayPool(slots, space.settings.resources, module, space.settings.timeout_s)


def _search(
    space: Space,
    folder: Path,
    budget: Budget,
    progress: bool,
    warm_start: Path | None,
    services: _Services,
) -> Outcome:
    started, examination = time.monotonic(), services.examination
    with (
        Stop(lambda: mark_draining(folder)) as stop,
        services.lab() as measuring,
        Progress(folder.name, budget.trials, progress) as shown,
        ExitStack() as opened,
    ):
        shown.say("preparing: data and networks")
        with space.source.at("", ()):
            say_loaded(examination.answer(), shown.say)
            made_of = resume.made_of(space, examination.answer())
        resume.check_same_data(folder, made_of)
        with space.source.at("", ()):
            trackers = open_trackers(space.settings.track, folder)
        tracking = opened.enter_context(Tracking(trackers, {hole.name for hole in space.holes}, folder))
        shown.say("preparing: starting Ray")
        pool = services.pool()
        opened.callback(pool.close)
        stop.reinstall()
        shown.say("preparing: training students for a step, exporting and comparing them")
        with space.source.at("", ()):
            say_proven(examination.answer(), shown.say)
            shown.say(f"preparing: {'teacher' if 'teacher' in space.source.tree else 'data'} in a worker")
            ready = _prepared(folder, preflight.teacher_trees(space), pool, shown)
        pool.share(ready.logits)
        stop.drain()  # a signal before this line ends the search at once: there are no trials to drain
        write_checked_json(folder / resume.MADE_OF, made_of)
        chance, rule = chance_of(ready), services.rule(space)
        run = open_search(space, folder, budget, pool, measuring, shown, stop, chance, rule, tracking)
        _work(run, warm_start)
        return _close(run, started)


def _work(run: Search, warm_start: Path | None) -> None:
    space, study, folder = run.space, run.study, run.folder
    if space.settings.stop != "none" and isinstance(run.rule, Never):
        rule = f"search.stop: {space.settings.stop}"
        run.progress.say(f"{rule} judges accuracy against costs only: nothing is stopped")
    first_trials.queue_first(study, space, warm_start)
    resume.settle(study, folder, space.settings.retries, lambda record: receive(run, record))
    work_through(run)
    if run.stop.now:
        return
    with contextlib.suppress(Interrupted), run.stop.twice_ends():
        if run.counts.finished:  # without any finished trial the runtime itself may be broken
            run.latencies.teacher(space, folder)
        finish.score_front(sorted(run.results.ever), run.results.sweep, folder, run.pool)


def chance_of(ready: Prepared) -> dict[str, float]:
    """The chance level of accuracy and of each metric: the score of always predicting the most frequent class."""
    return {"accuracy": ready.chance, **ready.metrics}


def _prepared(folder: Path, teachers: list[dict[str, Any]], pool: Pool, shown: Progress) -> Prepared:
    """Let a worker prepare teachers and data, and print each teacher's accuracy."""
    ready: Prepared = pool.call("prepare", teachers, str(folder.resolve()), hear=shown.step)
    for teacher in ready.teachers:
        weak = ", WEAK: train it longer or with other settings" if teacher["weak"] else ""
        shown.say(f"teacher {teacher['model']}: accuracy {teacher['accuracy']:.2%} on validation{weak}")
    return ready


def _close(run: Search, started: float) -> Outcome:
    counts, results = run.counts, run.results
    if counts.failures_in_a_row >= FAILURES_IN_A_ROW and not counts.finished:
        reason = run.study.trials(TrialState.FAIL)[-1].user_attrs.get("reason", "")
        raise HarnessError(
            f"{run.folder}: {counts.failures_in_a_row} trials failed in a row and none finished. The last one: {reason}"
        )
    enough = run.budget.trials is not None and counts.finished >= run.budget.trials
    enough = enough or run.budget.spent(counts.epochs)
    status = "interrupted" if run.stop.asked else "complete" if enough else "exhausted"
    front = sorted(results.front.numbers)
    run.tracking.status = status
    finish.write_summary(
        run.study,
        run.folder,
        {
            "status": status,
            "finished": counts.finished,
            "failed": counts.failed,
            "front": front,
            "stopped": counts.stopped,
            "epochs": counts.epochs,
            "budget": {"trials": run.budget.trials, "epochs": run.budget.epochs, "seconds": run.budget.seconds},
            "reference": results.reference.point(results.front),
            "chance": dict(results.reference.chance),
            "hypervolume": results.hypervolume,
            "driver_peak_mib": peak_memory_mib(),
            "wall_s": round(time.monotonic() - started, 1),
            "command": _command(),
        },
    )
    return Outcome(run.folder, status, counts.finished, counts.failed, front, run.stop.exit_code, counts.stopped)
