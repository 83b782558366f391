"""The pool's contract: on a Ray whose answers are set here, since the real one cannot be made to give each of them."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import exceptions

from harness.errors import MAX_REASON, DeviceError, HarnessError, SpaceError
from harness.records import TrialRecord
from harness.search import cluster
from harness.search import pool as pools
from harness.search.pool import RayPool
from harness.search.worker import Worker
from harness.space.settings import Resources
from harness.trial.job import Answer

NOBODY = (2**22 + 7, 0.0)  # a number above what Linux gives
MIB = 2**20


class Ref:
    def __init__(self, found: Any = None, done: bool = True):
        self.found, self.done, self.told = found, done, False


class Method:
    def __init__(self, work: Any):
        self.remote = work


class Actor:
    """Answers every call with its first argument; once dead, with what Ray says of a dead actor."""

    def __init__(self, outer: FakeRay) -> None:
        self.dead, self._outer = False, outer
        self.process, self.load, self.call = (Method(w) for w in (self._process, Ref, self._call))

    def _process(self) -> Ref:
        error = self._outer.broken_starts.pop(0) if self._outer.broken_starts else None
        return Ref(error or NOBODY, self._outer.roomy)

    def _call(self, name: str, found: Any = None, done: bool = True, resident_bytes: int = 0) -> Ref:
        if self.dead:
            return Ref(exceptions.ActorDiedError())
        if isinstance(found, Exception):
            self.dead = not isinstance(found, exceptions.RayTaskError)
            return Ref(found, done)
        return Ref((found, resident_bytes), done)


class FakeRay:
    put = staticmethod(Ref)
    actors: list[Actor]

    def __init__(self) -> None:
        self.actors, self.nodes_cpu, self.roomy = [], [2], True
        self.broken_starts: list[Exception] = []

    def remote(self, _: Any) -> FakeRay:
        return self

    def options(self, **_: Any) -> FakeRay:
        outer = self

        class Made:
            def remote(self, *_: Any) -> Actor:
                outer.actors.append(Actor(outer))
                return outer.actors[-1]

        return Made()  # pyright: ignore[reportReturnType]

    def get(self, ref: Ref, timeout: float) -> Any:
        assert ref.done and timeout < 100, "no wait is without a limit"
        if isinstance(ref.found, Exception):
            raise ref.found
        return ref.found

    def wait(self, refs: list[Ref], timeout: float, num_returns: int = 1) -> tuple[list[Ref], list[Ref]]:
        ready = [r for r in refs if r.done][:num_returns]
        return ready, [r for r in refs if r not in ready]

    def kill(self, actor: Actor) -> None:
        actor.dead = True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": cpu}} for cpu in self.nodes_cpu]

    def available_resources(self) -> dict[str, float]:
        return {}

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": sum(self.nodes_cpu)}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    found = FakeRay()
    monkeypatch.setattr(pools, "ray", found)
    monkeypatch.setattr(cluster, "ray", found)
    monkeypatch.setattr(pools, "Watch", lambda: SimpleNamespace(check=lambda: None, lost=False))
    return found


@pytest.fixture
def pool(fake: FakeRay) -> RayPool:
    made = RayPool(2, Resources(slots=2), "os", 100)
    made.wait(0)
    return made


def _all(kind: type) -> list[type]:
    return [kind, *(found for sub in kind.__subclasses__() for found in _all(sub))]


ERRORS = sorted({e for e in _all(exceptions.RayError) if e.__module__ == exceptions.__name__}, key=lambda e: e.__name__)


def test_the_list_of_errors_is_rays_own() -> None:
    assert {exceptions.OutOfMemoryError, exceptions.ActorDiedError, exceptions.NodeDiedError} <= set(ERRORS)
    assert len(ERRORS) > 30 and ray.__name__ == "ray"


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_whatever_ray_says_the_next_job_on_that_slot_succeeds(pool: RayPool, kind: type[Exception]) -> None:
    error = kind.__new__(kind)
    if isinstance(error, exceptions.RayTaskError):
        error.cause = ValueError("the function's own")
    pool.submit(7, "name", error, slot=1)
    [answer] = pool.wait(0)
    assert answer.job == 7 and answer.slot == 1 and answer.error
    assert answer.died != issubclass(kind, exceptions.RayTaskError)
    assert answer.error.startswith("oom") == issubclass(kind, exceptions.OutOfMemoryError)
    assert answer.renewed == answer.died
    pool.submit(8, "name", "fine", slot=1)
    [answer] = pool.wait(0)
    assert (answer.job, answer.value, answer.error) == (8, "fine", "")


def test_answers_that_are_ready_are_taken_however_late(pool: RayPool) -> None:
    """The driver may have stood still for longer than a trial may take."""
    pool.submit(1, "name", "one")
    pool.submit(2, "name", "two")
    for slot in pool._slots:
        slot.started, slot.loading = time.monotonic() - 1000, None
    assert sorted((a.job, a.value, a.error) for a in pool.wait(0)) == [(1, "one", ""), (2, "two", "")]


def test_what_is_late_and_not_ready_is_ended(pool: RayPool) -> None:
    pool.submit(1, "name", "one")
    pool.submit(2, "name", "never", False)
    for slot in pool._slots:
        slot.started, slot.loading = time.monotonic() - 1000, None
    answers = {a.job: a for a in pool.wait(0)}
    assert answers[1].value == "one" and "timeout" in answers[2].error
    assert pool.free == 2


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_a_worker_that_does_not_start_is_started_again(fake: FakeRay, kind: type[Exception]) -> None:
    error = kind.__new__(kind)
    fake.broken_starts = [error]
    made = RayPool(1, Resources(slots=1), "os", 100)
    made.wait(0)
    assert made.free == 0
    assert made.call("name", "fine") == "fine"


def test_workers_that_never_start_end_the_search_with_the_reason(fake: FakeRay) -> None:
    fake.broken_starts = [exceptions.ActorUnavailableError("no such folder", None) for _ in range(9)]
    made = RayPool(1, Resources(slots=1), "os", 100)
    with pytest.raises(HarnessError, match="the workers do not start"):
        made.call("name")


def test_a_full_cluster_is_said_and_waited_for(
    fake: FakeRay, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.roomy = False
    made = RayPool(2, Resources(slots=2), "os", 100)
    assert made.wait(0) == [] and made.free == 0 and not caplog.text
    for slot in made._slots:
        slot.asked -= 100
    made.wait(0)
    made.wait(0)
    assert caplog.text.count("2 of 2 workers are not ready") == 1 and "each needs 1 CPU" in caplog.text
    made._slots[0].starting.done = True
    made.wait(0)
    assert made.free == 1, "it goes on with what is there"


def test_nodes_that_join_bring_slots_and_nodes_that_go_leave_the_others(fake: FakeRay) -> None:
    made = RayPool(2, Resources(), "os", 100)
    made.wait(0)
    fake.nodes_cpu, fake.roomy = [2, 3], False
    made._looked -= 100
    made.wait(0)
    assert made.free == 2 and len(made._slots) == 5
    fake.nodes_cpu = [1]
    made.submit(1, "name", exceptions.NodeDiedError("gone"), slot=1)
    assert [a.died for a in made.wait(0)] == [True]
    assert made.free == 1 and len(made._slots) == 5
    made.submit(2, "name", "fine")
    assert [a.value for a in made.wait(0)] == ["fine"]


def test_a_cluster_without_a_fitting_node_ends_the_search(fake: FakeRay, pool: RayPool) -> None:
    fake.nodes_cpu = []
    pool._looked -= 100
    pool._roomy -= 10_000
    with pytest.raises(cluster.ClusterLost, match="no node"):
        pool.wait(0)


def test_a_worker_whose_memory_has_grown_is_replaced_between_two_trials(
    pool: RayPool, caplog: pytest.LogCaptureFixture
) -> None:
    first, limit = pool._slots[0].actor, pools.GROWTH_BYTES
    ends, waits = Answer(), Answer(epoch=1)
    for job, (name, value, resident_bytes) in enumerate(
        [
            ("prepare", ends, 9 * limit),  # a teacher is no trial
            ("start", ends, 100 * MIB),
            ("start", ends, limit + 100 * MIB),  # as much as it may
            ("start", waits, 3 * limit),  # its students are in that process
        ]
    ):
        pool.submit(job, name, value, True, resident_bytes, slot=0)
        [answer] = pool.wait(0)
        assert not answer.renewed and pool._slots[0].actor is first and not caplog.text
    pool.submit(3, "go_on", ends, True, limit + 101 * MIB)
    [answer] = pool.wait(0)
    assert answer.renewed and not answer.error and answer.value == ends and first.dead
    assert "worker 0 is replaced" in caplog.text and "1025 MiB" in caplog.text
    assert pool.idle(0) and pool._slots[0].first_bytes == 0


def test_a_worker_with_a_cuda_error_is_never_used_again(pool: RayPool, caplog: pytest.LogCaptureFixture) -> None:
    first = pool._slots[1].actor
    reason = "device: AcceleratorError: CUDA error: unspecified"
    failed = Answer([TrialRecord(number=1, status="failed", recipe={}, reason=reason)])
    pool.submit(1, "start", failed, slot=1)
    [answer] = pool.wait(0)
    assert answer.renewed and answer.value == failed and first.dead and "CUDA error" in caplog.text
    second = pool._slots[1].actor
    error = exceptions.RayTaskError.__new__(exceptions.RayTaskError)
    error.cause = DeviceError("device: CUDA error")
    pool.submit(2, "prepare", error, slot=1)
    [answer] = pool.wait(0)
    assert answer.renewed and second.dead and pool._slots[1].actor not in (first, second)


class LongError(Exception):
    def __str__(self) -> str:
        return "x" * 5_000_000


class MuteError(Exception):
    def __str__(self) -> str:
        raise ValueError


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (LongError(), "LongError"),
        (MuteError(), "its text cannot be had"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device: "),
        (SpaceError("task", "must be " + "x" * 5_000_000), "task"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_user_code_raises_is_one_short_error(
    error: BaseException, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    worker = Worker(__name__, str(tmp_path), "cpu")
    with pytest.raises(HarnessError, match=said) as raised:
        worker.call("_raise", error)
    assert len(str(raised.value)) <= (20_000 if isinstance(error, SpaceError) else MAX_REASON + 20)
    assert isinstance(raised.value, DeviceError) == (said == "device: ")
