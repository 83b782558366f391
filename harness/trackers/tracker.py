"""The interface of a tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class TrackedTrial:
    """One trial that has ended.

    status   ok, stopped (early) or failed; then ``reason`` says why
    recipe   every leaf by its dotted name, ``{"quant.bits": 4, ...}``
    params   the leaves of the recipe that the space searches
    metrics  name -> median of what was measured, ``{"accuracy": 0.97, "size_bytes": 4070, "latency_ms": 0.05}``
    curve    one row per epoch, with ``epoch`` and what training logs (loss, gradient_norm, ...)
    file     the exported model; None if there is none
    """

    number: int
    status: str
    reason: str
    baseline: str
    recipe: Mapping[str, Any]
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    curve: Sequence[Mapping[str, float]]
    file: Path | None
    on_front: bool


class Tracker(Protocol):
    """Logs the trials of one search. Its methods are called from one thread, one at a time."""

    def __init__(self, study: str, folder: Path) -> None:
        """``study``: name of the study; ``folder``: its folder. Any error ends the search before it starts."""
        ...

    def trial(self, trial: TrackedTrial) -> None:
        """Log a trial. After an error the tracker is not called again; the search goes on."""
        ...

    def close(self, status: str) -> None:
        """The search has ended: complete, interrupted or exhausted."""
        ...
