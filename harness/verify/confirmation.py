"""The content of ``confirm.json``, as ``confirm`` writes it and the report reads it."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Splits(TypedDict):
    """A metric of the task: means over a point's new trainings, on validation and on test."""

    validation: float
    test: float


class Point(TypedDict):
    """One confirmed point of a search. Intervals are [low, high].

    trial        number of the search's trial
    probability  of being on the front, from 0 to 1
    member       ``probability`` in words
    validation_accuracy, test_accuracy  means over the new trainings, from 0 to 1; their intervals contain the mean of
                 another such confirmation in 95 of 100 cases
    size_bytes   median over the files of the new trainings
    latency_ms   median of the search's file or one of equal structure, in one bench of all points; interval at 95 %
    latency_ratio    the latency relative to the bench's reference, the widest fp32 student if there is one
    latency_verdict  ``ok`` or ``unstable``
    metrics      the task's metrics that are objectives
    promised     what the search measured: ``accuracy``, ``size_bytes``, ``latency_ms`` and those metrics; else None
    """

    trial: int
    probability: float
    member: Literal["sure", "possible", "no"]
    validation_accuracy: float
    validation_interval: list[float]
    test_accuracy: float
    test_interval: list[float]
    size_bytes: float
    latency_ms: float
    latency_interval_ms: list[float]
    latency_ratio: float
    latency_verdict: str
    metrics: NotRequired[dict[str, Splits]]  # not in files of older versions
    promised: dict[str, float | None]


class Confirmed(TypedDict):
    """The confirmed points, and the number of test samples (a float, because a task returns it among its metrics)."""

    points: list[Point]
    test_n: float


class Confirmation(Confirmed):
    """``Confirmed``, and the options that it was made with: those of :func:`harness.verify.confirm.confirm`."""

    seeds: int
    bound: float
    repeat: int
    processes: int
