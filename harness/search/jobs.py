"""The driver's interface to a pool of workers: jobs and their answers. Independent of Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Finished:
    """The answer of one job.

    value      the result, if there was no error
    error      text of the error; empty if there was none
    died       the worker died; its record may nevertheless be on disk
    exception  the error itself, if the driver knows its type
    slot       where the job ran
    renewed    the slot has a new worker
    """

    job: int
    value: Any = None
    error: str = ""
    died: bool = False
    exception: Exception | None = None
    slot: int = 0
    renewed: bool = False


class Pool(Protocol):
    """A pool of workers (``RayPool``; tests use a simpler one).

    A job whose answer is ``held`` keeps its slot until its number is submitted again.
    """

    @property
    def free(self) -> int: ...
    @property
    def running(self) -> list[int]: ...
    def share(self, logits: Mapping[str, Any]) -> None: ...
    def idle(self, slot: int) -> bool: ...
    def submit(
        self, job: int, name: str, *args: Any, logits: bool = False, trials: int = 1, slot: int | None = None
    ) -> None: ...
    def call(self, name: str, *args: Any, hear: Callable[[str], None] | None = None) -> Any: ...
    def wait(self, timeout_s: float) -> list[Finished]: ...
    def close(self) -> None: ...
