"""Jobs for workers, and their answers: what the driver needs of a pool, whoever runs the jobs. No Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Finished:
    """The answer of one job from ``slot``: ``value``, or the ``error`` that took its place (``died``: the
    worker did not survive, its record may be on the disk all the same). ``renewed``: the slot has a new worker."""

    job: int
    value: Any = None
    error: str = ""
    died: bool = False
    exception: Exception | None = None
    slot: int = 0
    renewed: bool = False


class Pool(Protocol):
    """What the driver needs of its workers (``RayPool``; tests bring a simpler one).

    A job whose answer says ``held`` keeps its slot until its number is submitted again.
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
    def call(self, name: str, *args: Any) -> Any: ...
    def wait(self, timeout_s: float) -> list[Finished]: ...
    def close(self) -> None: ...
