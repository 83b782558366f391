"""The pool's contract: on a Ray whose answers are set here, since the real one cannot be made to give each of them."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray
from ray import exceptions

from harness.search import pool as pools
from harness.search.pool import RayPool
from harness.space import Resources

NO_PID = 2**22 + 7  # above what Linux gives


class Ref:
    def __init__(self, found: Any = None, done: bool = True):
        self.found, self.done = found, done


class Method:
    def __init__(self, work: Any):
        self.remote = work


class Actor:
    """Answers every call with its first argument; once dead, with what Ray says of a dead actor."""

    def __init__(self) -> None:
        self.dead = False
        self.pid, self.load, self.call = (Method(w) for w in (lambda: Ref(NO_PID), Ref, self._call))

    def _call(self, name: str, found: Any = None, done: bool = True) -> Ref:
        if self.dead:
            return Ref(exceptions.ActorDiedError())
        if isinstance(found, Exception) and not isinstance(found, exceptions.RayTaskError):
            self.dead = True
        return Ref(found, done)


class FakeRay:
    put = staticmethod(Ref)
    actors: list[Actor]

    def __init__(self) -> None:
        self.actors = []

    def remote(self, _: Any) -> FakeRay:
        return self

    def options(self, **_: Any) -> FakeRay:
        outer = self

        class Made:
            def remote(self, *_: Any) -> Actor:
                outer.actors.append(Actor())
                return outer.actors[-1]

        return Made()  # pyright: ignore[reportReturnType]

    def get(self, ref: Ref) -> Any:
        assert ref.done
        if isinstance(ref.found, Exception):
            raise ref.found
        return ref.found

    def wait(self, refs: list[Ref], num_returns: int = 1, timeout: float | None = None) -> tuple[list[Ref], list[Ref]]:
        ready = [r for r in refs if r.done][:num_returns]
        return ready, [r for r in refs if r not in ready]

    def kill(self, actor: Actor) -> None:
        actor.dead = True

    def shutdown(self) -> None:
        pass


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> RayPool:
    monkeypatch.setattr(pools, "ray", FakeRay())
    return RayPool(2, Resources(slots=2), "os", 100)


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
