"""First trials of a search: given recipes as parameters of a space, and points spread over the space."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from harness.errors import SpaceError
from harness.files.access import Plain
from harness.methods import respelling
from harness.recipe import flatten
from harness.records import BASELINES
from harness.space.baselines import narrowest_code, widest_code
from harness.space.distributions import SELECTORS, Hole, same

Sample = Callable[[Callable[[Hole], Any]], dict[str, Any]]  # :meth:`harness.space.space.Space.sample`


def express(holes: Sequence[Hole], leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters (internal name -> code) that give ``leaves`` (dotted name -> value). Values that no hole can give
    are left out."""
    params: dict[str, Any] = {}
    for hole in holes:
        if any(params.get(parent) != position for parent, position in hole.parents):
            continue
        code = _code(hole, leaves)
        if code is not None:
            params[hole.internal] = code
    return params


def _code(hole: Hole, leaves: Mapping[str, Any]) -> Any:
    if hole.name in leaves:
        return hole.code_of(leaves[hole.name])
    for selector in SELECTORS:  # a choice between sections is found by the section's kind
        label = leaves.get(f"{hole.name}.{selector}")
        if hole.kind == "choice" and label in hole.labels:
            return hole.labels.index(label)
    return None


COMPRESSION = ("student", "prune", "quant")  # sections that decide size and latency
SMALLEST = (1.0, 0.5)  # pruning ratios of the smallest models, as shares of the way to the highest ratio


def starting_points(holes: Sequence[Hole], sample: Sample, n: int, seed: int) -> list[dict[str, Any]]:
    """``n`` points of a space: the smallest models (at most a third of the points), the others spread out."""
    ends = [sample(lambda hole, share=share: _smallest(hole, share)) for share in SMALLEST]
    ends = [p for i, p in enumerate(ends) if p not in ends[:i]][: n // 3]
    return ends + spread_out(holes, sample, n - len(ends), seed)


def _smallest(hole: Hole, share: float) -> Any:
    """The code of ``hole`` in the smallest model: the narrowest student, pruned to ``share`` of the range, all else at
    its default.

    Its precision is the highest, because scales and additional operators make the file of a tiny model larger.
    """
    match hole.name:
        case "prune":  # a choice between methods
            ratio = (i for i, c in enumerate(hole.choices) if isinstance(c, Mapping) and "ratio" in c)
            return next(ratio, hole.default)
        case "prune.ratio":
            return _at(hole, share)
        case "quant.bits":
            return widest_code(hole)
        case _:
            return narrowest_code(hole) if hole.name.startswith("student") else hole.default


def _at(hole: Hole, share: float) -> Any:
    """The code at ``share`` (0 to 1) of the way along a hole; in a choice, by index."""
    return hole.at_share(share) if hole.kind != "choice" else min(int(share * len(hole.choices)), len(hole.choices) - 1)


def spread_out(holes: Sequence[Hole], sample: Sample, n: int, seed: int) -> list[dict[str, Any]]:
    """``n`` points that cover the ways to compress, everything else at its default.

    They are a Latin hypercube (McKay, Beckman, Conover 1979) over the holes of ``COMPRESSION``: each hole is divided
    into n equal parts, and one point lies in the middle of every part.
    """
    draw = random.Random(f"{seed} spread out")  # not scipy.stats.qmc, whose import takes seconds, for these two lines
    orders = {h.internal: draw.sample(range(n), n) for h in holes if h.name.split(".")[0] in COMPRESSION}

    def code(hole: Hole, point: int) -> Any:
        if hole.internal not in orders:
            return hole.default
        return _at(hole, (orders[hole.internal][point] + 0.5) / n)

    return [sample(lambda hole, i=i: code(hole, i)) for i in range(n)]


@dataclass(frozen=True)
class First:
    """A trial to run before the sampler's own. If it has a ``name``, the report marks it and no rule stops it."""

    params: dict[str, Any]
    name: str = ""


def read_first(value: Plain, holes: Sequence[Hole], constants: Mapping[str, Any]) -> tuple[First, ...]:
    """Read the ``first:`` list: partial recipes, each with an optional ``name``. The space must be able to take every
    value.

    Raises:
        SpaceError: an entry names something that the space does not search, or a value outside its range.
    """
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise SpaceError("first", "must be a list of recipes, in part", value, "Example: [{train: {lr: 0.1}}].")
    entries = cast(list[Mapping[str, Any]], value)
    return tuple(_entry(f"first.{i}", entry, holes, constants) for i, entry in enumerate(entries))


def _entry(path: str, entry: Mapping[str, Any], holes: Sequence[Hole], constants: Mapping[str, Any]) -> First:
    name = entry.get("name", "")
    if not isinstance(name, str) or name in BASELINES:
        raise SpaceError(f"{path}.name", "must be a text that no baseline has", name)
    leaves = dict(flatten({section: part for section, part in entry.items() if section != "name"}))
    params = express(holes, leaves)
    expressed = {hole.name for hole in holes if hole.internal in params}
    expressed |= {f"{hole}.{selector}" for hole in expressed for selector in SELECTORS}
    for leaf, got in leaves.items():
        if leaf not in expressed and not (leaf in constants and same(constants[leaf], got)):
            remedy = next(filter(None, (respelling(word) for word in (*leaf.split("."), got))), "")
            raise SpaceError(f"{path}.{leaf}", "must be a value that the space can take there", got, remedy)
    return First(params, name)
