"""First trials: the space's own, the front of an earlier study, and points to know the space by."""

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

MOST = 10  # points of an earlier front
SPREAD = 12  # points to know the space by, before TPE's own; a quarter of a small budget
FROM = "from"


def queue_first(study: Study, space: Space, earlier: Path | None) -> None:
    """Put the space's ``first:`` trials, the points of ``earlier``'s front and, where the sampler is TPE, which
    would draw its first ones at random, the smallest models and points spread over the ways to compress before
    what the sampler proposes; those that a resumed study has tried are not tried again.

    Another task may be behind the earlier study: what of its recipes the space can express is
    taken (width, bits, learning rate), the sampler chooses the rest.

    Raises:
        SpaceError: ``earlier`` is no finished study, or nothing of it can be expressed.
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
    known = {baseline.recipe.key() for baseline in space.baselines()}
    return list({key: p for p in points if (key := space.fill(p).key()) not in known}.values())


def _front(folder: Path, space: Space) -> list[dict[str, Any]]:
    """Parameters of at most ``MOST`` points, evenly spread along the front by size."""
    study, wrong = read_or_damage(folder / "study.json")
    numbers: Any = study.get("front")
    if not isinstance(numbers, list) or not all(type(n) is int for n in numbers):
        raise SpaceError("--warm-start", "must be the folder of a finished study", str(folder), wrong)
    records = [r for n in numbers if (r := read_record(trial_folder(folder, n), folder)) is not None]
    records.sort(key=lambda r: r.value("size_bytes") or 0.0)
    if len(records) > MOST:
        records = [records[round(i * (len(records) - 1) / (MOST - 1))] for i in range(MOST)]
    found = [express(space.holes, dict(flatten(r.recipe))) for r in records]
    unique = [p for i, p in enumerate(found) if p and p not in found[:i]]
    if not unique:
        raise SpaceError("--warm-start", "its recipes have nothing that this space searches", str(folder))
    return unique
