"""Ray actors, one per slot, reused from trial to trial. Ray carries scalars, paths and logits only.

Every wait has a time limit. A worker that died, or that must not be used again, is replaced while the others work. Its
slot is not idle until the new process has started; on a full cluster, or after the loss of a node, that may take until
resources are free. Nodes that join the cluster add slots.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil
import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from harness.errors import DeviceError, HarnessError, disk_error, reason_of
from harness.search.cluster import ClusterLost, Watch, heard, leave, room
from harness.search.jobs import Finished
from harness.search.worker import Worker
from harness.space.settings import Resources
from harness.trial.job import Answer

log = logging.getLogger(__name__)
TRIALS = ("run", "start", "go_on")
LOAD_S = 120.0  # time limit of a worker's imports, added to that of its first job
ANSWER_S = 30.0  # time limit of fetching an answer that is ready
GROWTH_BYTES = 2**30  # a worker is replaced when its resident memory grew by more since its first trial
LOOK_S = 10.0  # between two checks of the cluster's nodes
WAITS_S = 20.0  # a worker that starts for longer is reported
AGAIN_S = 600.0  # until the report is repeated
LOST_S = 600.0  # the search ends after no node fitted a single worker for so long
STARTS = 3  # failed starts of a slot in a row after which the search ends, if no worker has started


@dataclass(eq=False)
class _Slot:
    actor: Any
    starting: Any  # pending call, until the worker's process has started
    asked: float = field(default_factory=time.monotonic)  # when the worker was requested
    process: tuple[int, float] | None = None  # process id and creation time
    ref: Any = None
    job: int = -1
    name: str = ""  # of the function that the job calls
    started: float = 0.0
    trials: int = 1
    held: bool = False  # its job continues when the job's number is submitted again
    loading: Any = None  # pending call, until the imports have ended
    first_bytes: int = 0  # resident memory after the first trial
    failed_starts: int = 0


class RayPool:
    """A pool of ``slots`` workers with one job each. ``wait`` returns the jobs that finished, died or timed out."""

    def __init__(
        self, slots: int, resources: Resources, module: str, timeout_s: float, growth_bytes: int = GROWTH_BYTES
    ):
        self._resources, self._module, self._timeout_s = resources, module, timeout_s
        self._growth_bytes = growth_bytes
        self._logits: Any = None
        self._watch = Watch()
        self._looked = self._roomy = time.monotonic()
        self._missing, self._said = 0, 0.0
        self._slots = [self._new() for _ in range(slots)]

    def _new(self) -> _Slot:
        device = "cuda" if self._resources.gpu else "cpu"
        threads = str(self._resources.cpu)
        env = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        actor: Any = (
            ray.remote(Worker)
            .options(
                num_cpus=self._resources.cpu,
                num_gpus=self._resources.gpu,
                max_restarts=0,
                runtime_env={"env_vars": env},
            )
            .remote(self._module, os.getcwd(), device)
        )
        return _Slot(actor, actor.process.remote())

    @property
    def free(self) -> int:
        return sum(self.idle(i) for i in range(len(self._slots)))

    def idle(self, slot: int) -> bool:
        own = self._slots[slot]
        return own.ref is None and not own.held and own.starting is None

    @property
    def running(self) -> list[int]:
        return [slot.job for slot in self._slots if slot.ref is not None]

    def share(self, logits: Mapping[str, Any]) -> None:
        """Put the teachers' logits into the object store, once for all trials."""
        self._logits = ray.put(dict(logits))

    def submit(
        self, job: int, name: str, *args: Any, logits: bool = False, trials: int = 1, slot: int | None = None
    ) -> None:
        """Start ``name(*args)`` as job number ``job``.

        It runs on the slot that holds the job, else on ``slot`` (which must be idle), else on any idle slot.

        Args:
            logits: append the shared teachers' logits to the arguments.
            trials: number of trials in the job; its time limit is multiplied by it.
        """
        held = next((s for s in self._slots if s.held and s.job == job), None)
        idle = [s for i, s in enumerate(self._slots) if self.idle(i)]
        own = held or (idle[0] if slot is None else self._slots[slot])
        extra = [self._logits] if logits else []
        own.started = own.started if held else time.monotonic()
        own.ref, own.job, own.trials, own.held = own.actor.call.remote(name, *args, *extra), job, trials, False
        own.name = name

    def call(self, name: str, *args: Any, hear: Callable[[str], None] | None = None) -> Any:
        """Run one job, wait for it and return its value. An exception of the job is raised here.

        Args:
            hear: called with what the job announces (:mod:`harness.trial.announce`), at most once a second.
        Raises:
            HarnessError: the job failed, or its worker died.
        """
        while not self.free:
            self.wait(1.0)
        self.submit(-1, name, *args)
        said = ""
        while True:
            if hear is not None and (text := heard()) != said:
                said = text
                hear(text)
            for done in self.wait(1.0):
                if done.exception is not None:
                    raise done.exception
                if done.error:
                    raise HarnessError(done.error)
                return done.value

    def wait(self, timeout_s: float) -> list[Finished]:
        """All jobs that have finished, then those that timed out.

        Waits at most ``timeout_s``, and only until one job has finished or one worker has started. A late answer
        counts as finished, because the driver may have been suspended.

        Raises:
            ClusterLost: Ray has died, or had no room for a single worker for LOST_S.
            HarnessError: workers do not start.
        """
        self._watch.check()
        self._look_around()
        busy = {slot.ref: slot for slot in self._slots if slot.ref is not None}
        starting = [slot.starting for slot in self._slots if slot.starting is not None]
        if busy or starting:
            ray.wait([*busy, *starting], num_returns=1, timeout=timeout_s)
        ready = ray.wait(list(busy), num_returns=len(busy), timeout=0)[0] if busy else []
        done = [self._collect(busy[ref]) for ref in ready]
        done += [self._expire(slot) for slot in self._slots if slot.ref is not None and self._late(slot)]
        for slot in self._slots:
            if slot.starting is not None:
                self._arrive(slot)
        return done

    def _late(self, slot: _Slot) -> bool:
        """Whether a job exceeded its time limit. Its time counts from the end of the worker's imports, because on a
        busy machine these take longer than a short trial."""
        now = time.monotonic()
        if slot.loading is not None and ray.wait([slot.loading], timeout=0)[0]:
            slot.loading, slot.started = None, max(slot.started, now)
        allowance = 0.0 if slot.loading is None else LOAD_S
        return now - slot.started > self._timeout_s * slot.trials + allowance

    def _collect(self, slot: _Slot) -> Finished:
        ref, job, at = slot.ref, slot.job, self._slots.index(slot)
        slot.ref = None
        try:
            value, resident_bytes = ray.get(ref, timeout=ANSWER_S)
            slot.held = isinstance(value, Answer) and value.held
            renewed = self._renew(slot, value, resident_bytes)
            return Finished(job, value, slot=at, renewed=renewed)
        except RayTaskError as error:  # wraps what the function raised; the worker itself is intact
            cause = getattr(error, "cause", None)
            if spoiled := isinstance(cause, DeviceError):
                self._replace(slot)
            known = cause if isinstance(cause, HarnessError) else disk_error(cause)
            text = reason_of(cause or error).strip().splitlines()[-1]
            return Finished(job, error=text, exception=known, slot=at, renewed=spoiled)
        except RayError as error:  # actor, process, node or answer is lost: replace the worker
            self._replace(slot)
            oom = "oom: " if isinstance(error, OutOfMemoryError) else ""
            text = f"{oom}the worker died ({type(error).__name__})"
            return Finished(job, error=text, died=True, slot=at, renewed=True)

    def _renew(self, slot: _Slot, value: Any, resident_bytes: int) -> bool:
        """Replace a worker if its GPU is in a permanent error state or, between two trials, if its memory has grown
        too much. True if it was replaced."""
        records = value.records if isinstance(value, Answer) else ()
        spoiled = next((record.reason for record in records if record.reason.startswith("device: ")), "")
        if slot.name in TRIALS and not slot.held and not slot.first_bytes:
            slot.first_bytes = resident_bytes
        grown = resident_bytes - slot.first_bytes if slot.first_bytes else 0
        if not spoiled and (slot.held or grown <= self._growth_bytes):
            return False
        why = spoiled or f"its memory grew by {grown / 2**20:.0f} MiB since its first trial"
        log.warning("worker %d is replaced: %s", self._slots.index(slot), why)
        self._replace(slot)
        return True

    def _expire(self, slot: _Slot) -> Finished:
        job = slot.job
        self._replace(slot)
        text = f"timeout: no result after {self._timeout_s:g} s (search.timeout_s)"
        return Finished(job, error=text, slot=self._slots.index(slot), renewed=True)

    def _replace(self, slot: _Slot) -> None:
        """Kill a slot's process and start a new one."""
        with contextlib.suppress(RayError):
            ray.kill(slot.actor)
        _end_process(slot.process)
        vars(slot).update(vars(self._new()))

    def _arrive(self, slot: _Slot) -> None:
        """Make a slot idle if its process has started. Its imports run while other slots work."""
        if not ray.wait([slot.starting], timeout=0)[0]:
            return
        try:
            slot.process = ray.get(slot.starting, timeout=ANSWER_S)
        except RayError as error:
            self._start_again(slot, error)
            return
        slot.starting, slot.failed_starts = None, 0
        slot.loading = slot.actor.load.remote()

    def _start_again(self, slot: _Slot, error: RayError) -> None:
        failed, others = slot.failed_starts + 1, [s for s in self._slots if s.starting is None]
        said = reason_of(error).strip().splitlines()[-1]
        log.warning("worker %d did not start: %s", self._slots.index(slot), said)
        if failed >= STARTS and not others:
            raise HarnessError(f"the workers do not start. The last one: {said}")
        asked = slot.asked
        self._replace(slot)
        slot.failed_starts, slot.asked = failed, asked

    def _look_around(self) -> None:
        """Add slots on nodes that have joined, report workers that wait for resources, and raise ClusterLost if no node
        has fitted a worker for LOST_S."""
        now = time.monotonic()
        self._say_missing(now)
        if now - self._looked < LOOK_S:
            return
        self._looked, fit = now, room(self._resources)
        if fit:
            self._roomy = now
        elif now - self._roomy > LOST_S:
            needs = f"{self._resources.cpu} CPU and {self._resources.gpu:g} GPU"
            raise ClusterLost(f"no node of the cluster has had {needs} for {LOST_S:g} s")
        more = min(fit, self._resources.slots or fit) - len(self._slots)
        if more > 0:
            log.warning("the cluster has room for %d more workers", more)
            self._slots += [self._new() for _ in range(more)]

    def _say_missing(self, now: float) -> None:
        waits = [slot for slot in self._slots if slot.starting is not None and now - slot.asked > WAITS_S]
        if len(waits) == self._missing and (not waits or now - self._said < AGAIN_S):
            return
        self._missing, self._said = len(waits), now
        if not waits:
            log.warning("all %d workers are ready", len(self._slots))
            return
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - (now - min(slot.asked for slot in waits))))
        free, whole = ray.available_resources(), ray.cluster_resources()
        told = ", ".join(f"{free.get(k, 0):g} of {whole.get(k, 0):g} {k}" for k in ("CPU", "GPU") if whole.get(k))
        log.warning(
            "%d of %d workers are not ready, asked for at %s: they start slowly, or wait for room "
            "(each needs %d CPU and %g GPU; free in the cluster: %s)",
            *(len(waits), len(self._slots), since, self._resources.cpu, self._resources.gpu, told or "none"),
        )

    def close(self) -> None:
        """Stop the workers and leave Ray. A local Ray ends with all its processes."""
        for slot in [] if self._watch.lost else self._slots:
            with contextlib.suppress(RayError):
                ray.kill(slot.actor)
        leave()


def _end_process(known: tuple[int, float] | None) -> None:
    """Kill a worker's process, if it runs on this machine: the process of a dead actor may survive and hold GPU memory
    (ray#59872)."""
    if known is None:
        return
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(known[0])
        if process.create_time() == known[1]:
            process.kill()
            process.wait(5)
