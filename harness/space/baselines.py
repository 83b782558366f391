"""Baselines, with which a search is compared: the widest student in fp32 and int8, and every width in fp32.

If the space can express a baseline, it gets the sampler's parameters, so that the sampler learns from it. Otherwise its
recipe is built separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from harness.methods import FLOAT_BITS, REQUIRED, Method, Registries
from harness.recipe import Recipe
from harness.records import WIDEST_FP32, WIDEST_INT8, WIDTH_SWEEP
from harness.space.distributions import Hole, Node, combinations, resolve, same
from harness.stats.spaced import evenly

MAX_SWEEP = 8  # baselines of the width sweep; bounds the trials that they take from a small budget
_SWEEP_POINTS = 4  # values per range in the width sweep
_MAX_COMBINATIONS = 4096  # combinations that are looked at; bounds the time in spaces with many choices
_INT8 = {"bits": 8}
_TECHNIQUES = ("clip", "prune", "quant", "distill")

Wanted = Callable[[Method], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Baseline:
    """A recipe to compare with. ``params`` is None if the space cannot express it."""

    name: str
    recipe: Recipe
    params: dict[str, Any] | None


def make_baselines(
    tree: Mapping[str, Any], registries: Registries, build: Callable[[Mapping[str, Any]], Recipe]
) -> list[Baseline]:
    """``widest-fp32``, ``widest-int8`` and up to 8 ``width-sweep`` baselines of a space.

    tree   recipe sections with holes
    build  makes the recipe of a tree without holes
    """
    builder = _Builder(tree, registries, build)
    widest = resolve_params(tree.get("student"), widest_code)
    fp32 = builder.baseline(WIDEST_FP32, widest)
    int8 = builder.baseline(WIDEST_INT8, widest, _INT8)
    baselines = [fp32, int8]
    keys = {b.recipe.key() for b in baselines}
    for params in evenly([p for p in _widths(tree.get("student")) if p != widest], MAX_SWEEP):
        sweep = builder.baseline(WIDTH_SWEEP, params)
        if sweep.recipe.key() not in keys:
            keys.add(sweep.recipe.key())
            baselines.append(sweep)
    return baselines


def resolve_params(node: Node, pick: Callable[[Hole], Any]) -> dict[str, Any]:
    """The codes (internal name -> code) that ``pick`` gives to the holes in ``node`` that exist under these codes."""
    params: dict[str, Any] = {}

    def note(hole: Hole) -> Any:
        params[hole.internal] = hole.check(pick(hole))
        return params[hole.internal]

    resolve(node, note)
    return params


def capacity(node: Node) -> float:
    """The sum of all numbers in ``node``, with holes at their largest value: a measure of a student's width."""
    if isinstance(node, Hole):
        return max(map(capacity, node.choices)) if node.kind == "choice" else node.bounds()[1]
    if isinstance(node, dict | list):
        return sum(map(capacity, node.values() if isinstance(node, dict) else node))
    return node if isinstance(node, int | float) and not isinstance(node, bool) else 0


def widest_code(hole: Hole) -> Any:
    """The code of a student's hole with the most capacity (the last of equals); the default if no choice contains a
    number."""
    return _end(hole, max)


def narrowest_code(hole: Hole) -> Any:
    """The code with the least capacity (the first of equals); the default if no choice contains a number."""
    return _end(hole, min)


def _end(hole: Hole, pick: Callable[..., Any]) -> Any:
    if hole.kind != "choice":
        return pick(hole.bounds())
    sizes = [capacity(choice) for choice in hole.choices]
    if max(sizes) <= 0:
        return hole.default
    return pick((size, i) for i, size in enumerate(sizes))[1]


def _widths(student: Any) -> Iterator[dict[str, Any]]:
    return islice(combinations(student, lambda hole: hole.spread(_SWEEP_POINTS)), _MAX_COMBINATIONS)


class _Builder:
    """Builds baselines: a given student, techniques off, everything else at its default."""

    def __init__(self, tree: Mapping[str, Any], registries: Registries, build: Callable[[Mapping[str, Any]], Recipe]):
        self.tree, self.build = tree, build
        self.registry = {
            "clip": registries.clips,
            "prune": registries.pruners,
            "quant": registries.quantizers,
            "distill": registries.distills,
        }
        self.off = {section: self._find(section, lambda method: method.off) for section in _TECHNIQUES}

    def baseline(self, name: str, student: Mapping[str, Any], quant: Mapping[str, Any] | None = None) -> Baseline:
        chosen = dict(self.off)
        if quant is not None:
            chosen["quant"] = self._find("quant", lambda m: quant if quant.keys() <= m.options.keys() else None)
        forced = dict(student)
        for params in chosen.values():
            forced |= params or {}
        params = resolve_params(self.tree, lambda hole: forced.get(hole.internal, hole.default))
        tree = resolve(self.tree, lambda hole: params[hole.internal])
        unexpressed = [section for section, codes in chosen.items() if codes is None]
        for section in unexpressed:
            tree[section] = {"bits": FLOAT_BITS, **(quant or {})} if section == "quant" else {"kind": "none"}
        return Baseline(name, self.build(tree), None if unexpressed else params)

    def _find(self, section: str, wanted: Wanted) -> dict[str, Any] | None:
        """Codes at which the space's ``section`` has the ``wanted`` values; None if there are no such codes."""
        if section not in self.tree:
            neutral = {"bits": FLOAT_BITS} if section == "quant" else {"kind": "none"}
            return {} if self._fits(section, neutral, wanted) else None
        node = self.tree[section]
        values = [wanted(method) or {} for method in self.registry[section].values()]

        def candidates(hole: Hole) -> list[Any]:
            leaf = hole.name.removeprefix(section).lstrip(".")
            codes = [hole.code_of(options[leaf]) for options in values if leaf in options]
            codes = [code for code in codes if code is not None]
            nested = any(isinstance(choice, dict | list | Hole) for choice in hole.choices)
            if hole.kind == "choice" and (nested or leaf == "kind"):
                codes += [hole.default, *hole.spread(0)]
            return list(dict.fromkeys(codes)) or [hole.default]

        for params in islice(combinations(node, candidates), _MAX_COMBINATIONS):
            if self._fits(section, resolve(node, lambda hole, p=params: p[hole.internal]), wanted):
                return params
        return None

    def _fits(self, section: str, options: Mapping[str, Any], wanted: Wanted) -> bool:
        method = self.registry[section][options.get("kind", "uniform" if section == "quant" else "none")]
        values = wanted(method)
        if values is None:
            return False
        filled = {name: param.default for name, param in method.options.items() if param.default is not REQUIRED}
        filled |= options
        return all(name in filled and same(filled[name], value) for name, value in values.items())
