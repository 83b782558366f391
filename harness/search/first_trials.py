"""First trials: those in the space, the front of an earlier study, and points spread over the space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import SpaceError
from harness.files.checksums import read_or_damage
from harness.recipe import flatten
from harness.records import read_record, trial_folder
from harness.search.samplers import choose
from harness.search.study import NAMED, Study
from harness.space.space import Space
from harness.space.starting_points import express, starting_points
from harness.stats.spaced import evenly

MOST = 10  # points taken from an earlier front
SPREAD = 12  # points spread over the space before TPE starts; in a small budget at most a quarter of the trials
FROM = "from"


def queue_first(study: Study, space: Space, earlier: Path | None) -> None:
    """Queue trials to run before the sampler's own. Those that a resumed study has already tried are left out.

    In order: the space's ``first:`` trials, the points of ``earlier``'s front and, if the sampler is TPE, the smallest
    models and points spread over the ways to compress. TPE would otherwise draw its first trials at random.

    The earlier study may be of another task. From its recipes, the values that the space can express are taken
    (width, bits, learning rate); the sampler chooses the rest.

    Raises:
        SpaceError: ``earlier`` is not a finished study, or the space can express nothing of its recipes.
    """
    points = [] if earlier is None else _front(earlier, space)
    queue: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (first.params, {FROM: "first", **({NAMED: first.name} if first.name else {})}) for first in space.first
    ]
    queue += [(params, {FROM: str(earlier)}) for params in points]
    queue += [(params, {FROM: "spread"}) for params in _spread(space)]
    tried = sum(FROM in t.user_attrs for t in study.trials())
    study.queue = [*queue[tried:]]


def _spread(space: Space) -> list[dict[str, Any]]:
    settings = space.settings
    if choose(space) != "tpe":
        return []
    n = SPREAD if settings.trials is None else min(SPREAD, settings.trials // 4)
    points = starting_points(space.holes, space.sample, n, settings.seed)
    baseline_keys = {baseline.recipe.key() for baseline in space.baselines()}
    return list({key: p for p in points if (key := space.fill(p).key()) not in baseline_keys}.values())


def _front(folder: Path, space: Space) -> list[dict[str, Any]]:
    """Parameters of at most ``MOST`` points, evenly spread along the front by size."""
    study, wrong = read_or_damage(folder / "study.json")
    numbers: Any = study.get("front")
    if not isinstance(numbers, list) or not all(type(n) is int for n in numbers):
        raise SpaceError("--warm-start", "must be the folder of a finished study", str(folder), wrong)
    records = [r for n in numbers if (r := read_record(trial_folder(folder, n), folder)) is not None]
    records.sort(key=lambda r: r.value("size_bytes") or 0.0)
    points = [express(space.holes, dict(flatten(r.recipe))) for r in evenly(records, MOST)]
    unique = [p for i, p in enumerate(points) if p and p not in points[:i]]
    if not unique:
        raise SpaceError("--warm-start", "its recipes have nothing that this space searches", str(folder))
    return unique
