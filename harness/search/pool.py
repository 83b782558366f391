"""Ray actors, one per slot, reused from trial to trial. Ray carries scalars, paths and logits only."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from harness.errors import HarnessError, SpaceError, disk_error
from harness.space import Resources

OBJECT_STORE_BYTES = 300 * 2**20
ON_DEVICE = ("prepare", "run", "start", "go_on", "untrained")
ALIVE_S = 60.0  # a cluster must offer the resources within this time
LOAD_S = 120.0  # what a worker may take for its imports, beside its first job's own time


class Worker:
    """What runs in an actor: it imports the torch side once and then serves trial after trial."""

    def __init__(self, module: str, folder: str, device: str):
        os.chdir(folder)  # the user's own modules are found from where the search was started
        if folder not in sys.path:
            sys.path.insert(0, folder)
        self._module, self._device = module, device

    def call(self, name: str, *args: Any) -> Any:
        """Call ``name`` of the trial module, with the device as last argument where it takes one."""
        function = getattr(importlib.import_module(self._module), name)
        return function(*args, *([self._device] if name in ON_DEVICE else []))

    def load(self) -> None:
        """Import the module before the first call needs it."""
        importlib.import_module(self._module)

    def pid(self) -> int:
        return os.getpid()


@dataclass(frozen=True)
class Finished:
    """The answer of one job from ``slot``: ``value``, or the ``error`` that took its place (``died``: the
    worker did not survive, its record may be on the disk all the same)."""

    job: int
    value: Any = None
    error: str = ""
    died: bool = False
    exception: Exception | None = None
    slot: int = 0


@dataclass(eq=False)
class _Slot:
    actor: Any
    pid: int
    ref: Any = None
    job: int = -1
    started: float = 0.0
    trials: int = 1
    held: bool = False  # its job goes on when its number is submitted again
    loading: Any = None  # until its imports have ended


def connect(resources: Resources, address: str | None) -> int:
    """Start a local Ray or join the cluster at ``address``; the number of slots it has for us.

    A Ray that we start makes its access token by itself and demands it (token authentication has
    been its default since 2.60; naming the mode here would keep it from making the token).

    Raises:
        SpaceError: the address is dead, or the resources asked for are not there.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if address:
        _probe(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        gpus = _local_gpus()
        if resources.gpu and not gpus:
            raise SpaceError(
                "resources.gpu",
                "a GPU is asked for, but this machine shows none",
                resources.gpu,
                "Remove `resources.gpu` to use CPU cores, or give --address of a cluster that has one.",
            )
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ray.init(
            address="local",
            num_cpus=max(cores, resources.cpu, (resources.slots or 1) * resources.cpu),
            num_gpus=gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    return _slots(resources)


def _probe(address: str) -> None:
    """A dead address makes Ray wait for minutes without a word."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return
    except (OSError, ValueError) as error:
        raise SpaceError(
            "--address",
            f"no Ray cluster answers there ({error})",
            address,
            "Give HOST:PORT as `ray start --head` printed it.",
        ) from None


def _local_gpus() -> int:
    from harness.deploy.machine import gpus

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(gpus()) if visible is None else len([d for d in visible.split(",") if d.strip()])


def _slots(resources: Resources) -> int:
    offered: dict[str, Any] = {}
    deadline = time.monotonic() + ALIVE_S
    while time.monotonic() < deadline:
        offered = ray.cluster_resources()
        fit = int(offered.get("CPU", 0) // resources.cpu)
        if resources.gpu:
            fit = min(fit, int(offered.get("GPU", 0) / resources.gpu + 1e-9))
        if fit >= 1:
            return min(fit, resources.slots or fit)
        time.sleep(1)
    raise SpaceError(
        "resources",
        f"the cluster never offered {resources.cpu} CPU and {resources.gpu:g} GPU for a slot",
        {k: offered.get(k, 0) for k in ("CPU", "GPU")},
        "Ask for less, or add nodes.",
    )


class RayPool:
    """``slots`` workers. One job each; ``wait`` hands back what finished, died or ran too long."""

    def __init__(self, slots: int, resources: Resources, module: str, timeout_s: float):
        self._resources, self._module, self._timeout_s = resources, module, timeout_s
        self._logits: Any = None
        self._slots = [self._new() for _ in range(slots)]
        for slot in self._slots:
            self._ready(slot)

    def _ready(self, slot: _Slot) -> None:
        """Its process is there; what it imports, it imports while others work."""
        slot.pid = ray.get(slot.actor.pid.remote())
        slot.loading = slot.actor.load.remote()

    def _new(self) -> _Slot:
        device = "cuda" if self._resources.gpu else "cpu"
        threads = str(self._resources.cpu)
        env = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        actor = (
            ray.remote(Worker)
            .options(
                num_cpus=self._resources.cpu,
                num_gpus=self._resources.gpu,
                max_restarts=0,
                runtime_env={"env_vars": env},
            )
            .remote(self._module, os.getcwd(), device)
        )
        return _Slot(actor, 0)

    @property
    def free(self) -> int:
        return sum(self.idle(i) for i in range(len(self._slots)))

    def idle(self, slot: int) -> bool:
        return self._slots[slot].ref is None and not self._slots[slot].held

    @property
    def running(self) -> list[int]:
        return [slot.job for slot in self._slots if slot.ref is not None]

    def share(self, logits: Mapping[str, Any]) -> None:
        """Put the teachers' logits into the object store, once for all trials."""
        self._logits = ray.put(dict(logits))

    def submit(
        self, job: int, name: str, *args: Any, logits: bool = False, trials: int = 1, slot: int | None = None
    ) -> None:
        """Start ``name(*args)`` under the number ``job``: on the slot that holds it, else on ``slot``
        (idle), else on any idle one. ``trials`` share its time limit's multiple."""
        held = next((s for s in self._slots if s.held and s.job == job), None)
        idle = [s for i, s in enumerate(self._slots) if self.idle(i)]
        own = held or (idle[0] if slot is None else self._slots[slot])
        extra = [self._logits] if logits else []
        own.started = own.started if held else time.monotonic()
        own.ref, own.job, own.trials, own.held = own.actor.call.remote(name, *args, *extra), job, trials, False

    def call(self, name: str, *args: Any) -> Any:
        """Run one job alone and return its value; its exception is raised here as it was.

        Raises:
            HarnessError: also where the worker died.
        """
        self.submit(-1, name, *args)
        while True:
            for done in self.wait(1.0):
                if done.exception is not None:
                    raise done.exception
                if done.error:
                    raise HarnessError(done.error)
                return done.value

    def wait(self, timeout_s: float) -> list[Finished]:
        """Jobs that finished within ``timeout_s``, all that have, as soon as one has; then those that ran too
        long (an answer that is there counts, however late: the driver may have stood still)."""
        busy = {slot.ref: slot for slot in self._slots if slot.ref is not None}
        if not busy:
            return []
        ray.wait(list(busy), num_returns=1, timeout=timeout_s)
        ready, _ = ray.wait(list(busy), num_returns=len(busy), timeout=0)
        done = [self._collect(busy[ref]) for ref in ready]
        return done + [self._expire(slot) for slot in self._slots if slot.ref is not None and self._late(slot)]

    def _late(self, slot: _Slot) -> bool:
        """Whether a job ran longer than it may; its time begins when its worker has its imports,
        which on a busy machine take longer than a short trial."""
        now = time.monotonic()
        if slot.loading is not None and ray.wait([slot.loading], timeout=0)[0]:
            slot.loading, slot.started = None, max(slot.started, now)
        allowance = 0.0 if slot.loading is None else LOAD_S
        return now - slot.started > self._timeout_s * slot.trials + allowance

    def _collect(self, slot: _Slot) -> Finished:
        ref, job, at = slot.ref, slot.job, self._slots.index(slot)
        slot.ref = None
        try:
            value = ray.get(ref)
            slot.held = isinstance(value, dict) and bool(value.get("held"))
            return Finished(job, value, slot=at)
        except RayTaskError as error:  # what the function raised, wrapped: the worker is well
            cause = getattr(error, "cause", None)
            known = cause if isinstance(cause, HarnessError) else disk_error(cause)
            return Finished(job, error=str(cause or error).strip().splitlines()[-1], exception=known, slot=at)
        except RayError as error:  # of the actor, its process, its node or its answer: none of them is used again
            self._replace(slot)
            oom = "oom: " if isinstance(error, OutOfMemoryError) else ""
            return Finished(job, error=f"{oom}the worker died ({type(error).__name__})", died=True, slot=at)

    def _expire(self, slot: _Slot) -> Finished:
        job = slot.job
        self._replace(slot)
        return Finished(
            job,
            error=f"timeout: no result after {self._timeout_s:g} s (search.timeout_s)",
            slot=self._slots.index(slot),
        )

    def _replace(self, slot: _Slot) -> None:
        """End a slot's process for certain and start a new one in its place."""
        ray.kill(slot.actor)
        _end_process(slot.pid)
        fresh = self._new()
        slot.actor, slot.ref, slot.held = fresh.actor, None, False
        self._ready(slot)

    def close(self) -> None:
        """Stop Ray (a local one ends with all of its processes)."""
        with contextlib.suppress(RayError):
            for slot in self._slots:
                ray.kill(slot.actor)
        ray.shutdown()


def _end_process(pid: int) -> None:
    """A dead actor's process may live on and hold its GPU memory (ray#59872). Only where the pid
    is one of this machine's Ray workers."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if "ray::" in " ".join(process.cmdline()):
            process.kill()
            process.wait(5)
