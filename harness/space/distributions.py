"""Holes: the leaves of a search space that the sampler fills.

A hole is written in place of any value of a recipe:

    {float: [low, high], log: true}      {float: [low, high], step: 0.1}
    {int: [low, high], log: true}        {int: [low, high], step: 8}
    {choice: [a, b, c]}                  entries may be values, lists, whole sections or holes

each with an optional ``default:``, the value that baselines take. The sampler chooses a *code*: for ``float`` and
``int`` the number itself, for ``choice`` the index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from harness.errors import SpaceError
from harness.methods import is_number, is_whole

SELECTORS = ("kind", "model", "name")  # keys that name a section's method, model or task


@dataclass(frozen=True)
class Hole:
    """One parameter of a search space.

    name      dotted name in the recipe, ``clip.threshold``
    internal  name for the sampler, with the branch if conditional: ``clip[norm].threshold``
    low, high, log, step   the range of a ``float`` or ``int`` (default step of an ``int``: 1)
    choices   the alternatives: values, lists, sections (which may contain holes), holes
    labels    a text for each choice: a section's kind, model or name, else the value
    ordered   all choices are numbers in ascending order
    default   the code that baselines take: ``default:``, else the middle of a range (geometric
              if ``log``), the middle of ordered choices, the first of other choices
    parents   (internal name, index) of the choices that must be selected for this hole to exist
    """

    name: str
    internal: str
    kind: Literal["float", "int", "choice"]
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None
    choices: tuple[Any, ...] = ()
    labels: tuple[str, ...] = ()
    ordered: bool = False
    default: Any = None
    parents: tuple[tuple[str, int], ...] = ()

    def check(self, code: Any) -> Any:
        """``code`` as an int or float.

        Raises:
            SpaceError: the code is outside this hole.
        """
        if self.kind == "choice":
            if isinstance(code, bool) or not is_whole(code) or not 0 <= code < len(self.choices):
                raise SpaceError(self.internal, f"must be a position from 0 to {len(self.choices) - 1}", code)
            return int(code)
        low, high = self.bounds()
        if not is_number(code) or (self.kind == "int" and not is_whole(code)) or not low <= code <= high:
            raise SpaceError(self.internal, f"must be {self.kind} from {low} to {high}", code)
        if self.kind == "int" and self.step is not None and (code - low) % self.step:
            raise SpaceError(self.internal, f"must be {low} plus a multiple of {self.step}", code)
        return int(code) if self.kind == "int" else float(code)

    def bounds(self) -> tuple[float | int, float | int]:
        """Low and high of a range."""
        if self.low is None or self.high is None:
            raise SpaceError(self.internal, "a choice has no range")
        return self.low, self.high

    def code_of(self, value: Any) -> Any:
        """The code that gives ``value``; None if there is none."""
        if self.kind == "choice":
            return next((i for i, c in enumerate(self.choices) if same(c, value)), None)
        low, high = self.bounds()
        if not is_number(value) or not low <= value <= high or (self.kind == "int" and not is_whole(value)):
            return None
        if self.step is not None and not divides(self.step, value - low):
            return None
        return self.check(value)

    def spread(self, n: int) -> list[Any]:
        """For a range: at most ``n`` codes, evenly spaced (in the logarithm if ``log``), with both ends. For a choice:
        every index."""
        if self.kind == "choice":
            return list(range(len(self.choices)))
        low, high = self.bounds()
        if self.step is not None and not self.log:
            n = min(n, round((high - low) / self.step) + 1)
        points = [self.at_share(i / (n - 1)) for i in range(n)]
        return list(dict.fromkeys(points))

    def places(self, code: Any) -> tuple[float, ...]:
        """``code`` scaled to [0, 1], for models of the search space.

        A range or an ordered choice gives one number: the position between low and high (in the logarithm if ``log``)
        or the scaled index. Another choice gives one number per label: 1 for the chosen one, 0 for the others. If
        ``code`` is None, the hole does not exist in this branch, and every number is 0.5.
        """
        if self.kind == "choice" and not self.ordered:
            return tuple(0.5 if code is None else float(i == code) for i in range(len(self.choices)))
        low, high = (0, len(self.choices) - 1) if self.kind == "choice" else self.bounds()
        if code is None or low == high:
            return (0.5,)
        return (math.log(code / low) / math.log(high / low) if self.log else (code - low) / (high - low),)

    def at_share(self, share: float) -> Any:
        """The code at ``share`` (0 to 1) of the way from low to high, rounded to the step."""
        low, high = self.bounds()
        if share in (0, 1):
            return self.check(high if share else low)
        value = low + (high - low) * share
        if self.log:
            value = math.exp(math.log(low) * (1 - share) + math.log(high) * share)
        if self.step is not None:
            value = low + round((value - low) / self.step + 1e-9) * self.step
        value = round(value) if self.kind == "int" else float(f"{value:.12g}")
        return self.check(min(max(value, low), high))


Node: TypeAlias = "Mapping[str, Node] | list[Any] | Hole | str | int | float | bool | None"  # of a tree with holes


def divides(step: float, length: float) -> bool:
    """Whether ``length`` is a multiple of ``step``, up to float rounding."""
    count = length / step
    return math.isfinite(count) and abs(count - round(count)) < 1e-6


def same(a: Node, b: Node) -> bool:
    """Whether two recipe values are equal. 1 equals 1.0, but 1 does not equal true."""
    if isinstance(a, Hole) or isinstance(b, Hole):
        return a is b
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b)


def resolve(node: Node, pick: Callable[[Hole], Any]) -> Any:
    """``node`` as plain values: every hole that exists is filled with the code that ``pick`` returns for it."""
    if isinstance(node, Hole):
        code = pick(node)
        return resolve(node.choices[code], pick) if node.kind == "choice" else code
    if isinstance(node, dict):
        return {key: resolve(inner, pick) for key, inner in node.items()}
    if isinstance(node, list):
        return [resolve(inner, pick) for inner in node]
    return node


def combinations(node: Node, candidates: Callable[[Hole], Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """All combinations of candidates that fill ``node``, each as internal name -> code."""
    counter: list[int] = []
    while True:
        params, sizes = _turn(node, candidates, counter)
        yield params
        while counter and counter[-1] + 1 == sizes[len(counter) - 1]:
            counter.pop()
        if not counter:
            return
        counter[-1] += 1


def _turn(
    node: Node, candidates: Callable[[Hole], Sequence[Any]], counter: list[int]
) -> tuple[dict[str, Any], list[int]]:
    """Fill ``node`` with the candidates at the indices in ``counter``, which is extended by a 0 for every further hole.
    Returns the codes, and the number of candidates of each hole."""
    params: dict[str, Any] = {}
    sizes: list[int] = []

    def pick(hole: Hole) -> Any:
        if len(sizes) == len(counter):
            counter.append(0)
        options = candidates(hole)
        params[hole.internal] = options[counter[len(sizes)]]
        sizes.append(len(options))
        return params[hole.internal]

    resolve(node, pick)
    return params, sizes


def origin(node: Node, params: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The keys in the file at which the value of a recipe's dotted ``name`` is written, given ``params``."""
    keys: tuple[str, ...] = ()
    parts = name.split(".")
    while True:
        if isinstance(node, Hole):
            if node.kind != "choice" or node.internal not in params:
                return keys
            code = params[node.internal]
            keys, node = (*keys, "choice", str(code)), node.choices[code]
        elif parts and isinstance(node, dict) and parts[0] in node:
            node, keys = node[parts[0]], (*keys, parts.pop(0))
        elif parts and isinstance(node, list) and parts[0].isdecimal() and int(parts[0]) < len(node):
            node, keys = node[int(parts[0])], (*keys, parts.pop(0))
        else:
            return keys
