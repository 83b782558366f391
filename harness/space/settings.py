"""The sections of a space about the search itself: objectives, constraints, budget, resources.

They are validated like methods: every field declares its type, range and default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from harness.errors import SpaceError
from harness.files.access import Plain
from harness.methods import Param, checked, declarations, declared, is_mapping, is_number, nearest
from harness.records import DIRECTIONS, metric_name_mistake
from harness.stats.direction import Direction

Sampler = Literal["auto", "tpe", "nsga2", "random", "sobol", "gp"]
Stopping = Literal["none", "dominated", "moasha"]
SECTIONS = ("search", "resources", "objectives", "constraints", "first", "track")
MAX_OBJECTIVES = 3


@dataclass(frozen=True)
class Resources:
    """Resources of one slot, and the number of slots (None: as many as fit)."""

    cpu: int = declared(int, 1, low=1, doc="cores of a slot, and threads of its worker")
    gpu: float = declared(float, 0.0, low=0, doc="GPUs of a slot: whole, or 1/k to share one GPU between k slots")
    slots: int | None = declared(int, None, low=1, doc="trials at a time at most; none: as many as fit")


@dataclass(frozen=True)
class Settings:
    """How the search runs.

    trials, time_s, epochs_total  the budget: the limit that is reached first counts; 60 trials if none is given
    stop     the rule that stops trials early
    lanes    number of trials of equal structure that train side by side; None: chosen from the budget
    storage  Optuna URL; None: a journal file in the study's folder
    track    trackers that log each trial (``track: mlflow``, or a list)
    allow_weak  accept a teacher or checkpoint read from a file whose accuracy is less than half way from chance to 1
    """

    trials: int | None = declared(int, None, low=1, doc="finished trials of the study; 60 without any budget")
    time_s: float | None = declared(
        float, None, low=0, low_open=True, doc="seconds of one call, after which no trial starts"
    )
    epochs_total: int | None = declared(int, None, low=1, doc="trained epochs of the study")
    stop: Stopping = declared(str, "none", choices=get_args(Stopping), doc="the rule that ends trials early")
    lanes: int | None = declared(
        int, None, low=1, doc="trials of one structure that train side by side; none: by the budget"
    )
    sampler: Sampler = declared(str, "auto", choices=get_args(Sampler), doc="what proposes the trials")
    seed: int = declared(int, 0, low=0, high=2**32 - 1, doc="of the sampler, and of every trial's seed")
    storage: str | None = declared(str, None, doc="Optuna's URL of a database; none: a journal in the study's folder")
    resources: Resources = Resources()
    timeout_s: float = declared(float, 600.0, low=0, low_open=True, doc="seconds that one trial may take")
    retries: int = declared(int, 1, low=0, doc="repetitions of a trial whose worker died")
    allow_weak: bool = declared(bool, False, doc="accept a weak network that is read from a file")
    track: tuple[str, ...] = ()


@dataclass(frozen=True)
class Objective:
    """A measured quantity and the direction in which it improves."""

    name: str
    direction: Direction


def read_settings(tree: Mapping[str, Any]) -> Settings:
    """Read the ``search:`` and ``resources:`` sections of a space."""
    resources = checked("resources", tree.get("resources", {}), declarations(Resources))
    _check_gpu(resources["gpu"])
    settings = checked("search", tree.get("search", {}), declarations(Settings))
    return Settings(**settings, resources=Resources(**resources), track=_track(tree.get("track", [])))


def _track(value: Plain) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise SpaceError("track", "must be the name of a tracker, or a list of names", value, "Example: track: mlflow.")
    return tuple(str(name) for name in dict.fromkeys(map(str, names)))


def _check_gpu(gpu: float) -> None:
    """Allow whole GPUs, or 1/k of a GPU: Ray cannot place other fractions without leaving part of a GPU unused."""
    if gpu == 0 or (gpu >= 1 and gpu == round(gpu)):
        return
    if gpu > 1:
        raise SpaceError("resources.gpu", "must be whole above 1", gpu, f"Use {round(gpu)}.")
    k = max(round(1 / gpu), 2)
    if k > 10_000 or abs(1 / gpu - k) > 1e-3 * k:
        raise SpaceError(
            "resources.gpu",
            "must be whole, or one k-th of a GPU",
            gpu,
            f"Use {int(10_000 / min(k, 10_000)) / 10_000:g} (one {min(k, 10_000)}th).",
        )


def read_objectives(tree: Mapping[str, Any]) -> tuple[Objective, ...]:
    """Read the ``objectives:`` list: names with a known direction, or ``{name:, direction:}``."""
    value: Plain = tree.get("objectives", ["accuracy", "size_bytes", "latency_ms"])
    if not isinstance(value, list) or not value:
        raise SpaceError(
            "objectives",
            "must be a list of at least one objective",
            value,
            "Example: [accuracy, size_bytes, latency_ms].",
        )
    if len(value) > MAX_OBJECTIVES:
        raise SpaceError(
            "objectives",
            f"must be at most {MAX_OBJECTIVES}",
            len(value),
            "Make the others constraints: proposing trials gets very slow with many objectives.",
        )
    objectives: list[Objective] = []
    for i, entry in enumerate(value):
        objective = _objective(f"objectives.{i}", entry)
        if objective.name in (o.name for o in objectives):
            raise SpaceError(f"objectives.{i}", "an objective is listed twice", objective.name, "Remove one.")
        objectives.append(objective)
    return tuple(objectives)


def _objective(path: str, entry: Plain) -> Objective:
    if isinstance(entry, str):
        if entry not in DIRECTIONS:
            raise SpaceError(
                path,
                "unknown objective",
                entry,
                nearest(entry, DIRECTIONS) + " A metric of your task is written {name: NAME, direction: maximize}.",
            )
        return Objective(entry, DIRECTIONS[entry])
    if not isinstance(entry, Mapping):
        raise SpaceError(path, "must be a name or {name:, direction:}", entry, f"Known: {', '.join(DIRECTIONS)}.")
    name = Param(str).check(f"{path}.name", entry.get("name"))
    for key in entry:
        if key not in ("name", "direction"):
            raise SpaceError(f"{path}.{key}", "unknown key", remedy=nearest(key, ("name", "direction")))
    if name not in DIRECTIONS and (rule := metric_name_mistake(name)):
        raise SpaceError(f"{path}.name", f"a metric of the task: {rule}", name, "Give the metric another name.")
    direction = entry.get("direction", DIRECTIONS.get(name))
    for possible in get_args(Direction):
        if direction == possible and DIRECTIONS.get(name, possible) == possible:
            return Objective(name, possible)
    allowed = (DIRECTIONS[name],) if name in DIRECTIONS else get_args(Direction)
    raise SpaceError(f"{path}.direction", f"must be {' or '.join(allowed)}", direction, nearest(direction, allowed))


def read_constraints(tree: Mapping[str, Any], measured: tuple[str, ...], free: bool) -> dict[str, dict[str, float]]:
    """Read the ``constraints:`` section: quantity -> its ``min`` and ``max``.

    measured  quantities that every trial measures
    free      whether other quantities are allowed too, because the user's own task may return further metrics
    """
    value = tree.get("constraints", {})
    if not is_mapping(value):
        raise SpaceError("constraints", "must be a mapping", value, "Example: {latency_ms: {max: 5}}.")
    return {name: _bounds(f"constraints.{name}", bounds, name, measured, free) for name, bounds in value.items()}


def _bounds(path: str, value: Any, name: str, measured: tuple[str, ...], free: bool) -> dict[str, float]:
    if name not in measured and not free:
        raise SpaceError(path, "unknown quantity", remedy=nearest(name, measured))
    if not is_mapping(value) or not value:
        raise SpaceError(path, "must give `min`, `max` or both", value, "Example: {max: 5}.")
    for key, bound in value.items():
        if key not in ("min", "max"):
            raise SpaceError(f"{path}.{key}", "unknown key", remedy=nearest(key, ("min", "max")))
        if not is_number(bound):
            raise SpaceError(f"{path}.{key}", "must be a finite number", bound)
    bounds = {key: float(bound) for key, bound in value.items()}
    if "min" in bounds and "max" in bounds and bounds["min"] > bounds["max"]:
        raise SpaceError(path, f"`min <= max` must hold, but got min={bounds['min']:g}, max={bounds['max']:g}")
    return bounds
