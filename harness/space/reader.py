"""Read holes from a plain tree. Every mistake is reported with its line."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from harness.errors import SpaceError
from harness.files.access import Plain
from harness.methods import is_number, is_whole, nearest
from harness.space.distributions import Hole, divides, same
from harness.space.source import Source

KINDS = ("float", "int", "choice")
FORMS = "A hole is {float: [low, high]}, {int: [low, high]} or {choice: [a, b]}."
_KEYS = {
    "float": ("float", "log", "step", "default"),
    "int": ("int", "log", "step", "default"),
    "choice": ("choice", "default"),
}
MAX_HOLES = 200  # a search of more parameters learns nothing
MAX_CHOICES = 200  # every choice is tried when a space is loaded; bounds that time
_LABELS = ("kind", "model", "name")


class HoleReader:
    """Replaces the holes in a plain tree by :class:`Hole` objects, which are also listed in ``holes``."""

    def __init__(self, source: Source):
        self.source = source
        self.holes: list[Hole] = []

    def read(
        self,
        node: Plain,
        name: str = "",
        internal: str = "",
        keys: tuple[str, ...] = (),
        parents: tuple[tuple[str, int], ...] = (),
    ) -> Any:
        if isinstance(node, dict):
            if any(kind in node for kind in KINDS) and keys:
                with self.source.at(name, keys):
                    return self._hole(node, name, internal, keys, parents)
            self._refuse_misspelt(node, name, keys)
            items: Iterator[tuple[str, Plain]] = iter(node.items())
        elif isinstance(node, list):
            items = ((str(i), item) for i, item in enumerate(node))
        else:
            return node
        read = {
            key: self.read(inner, f"{name}.{key}".lstrip("."), f"{internal}.{key}".lstrip("."), (*keys, key), parents)
            for key, inner in items
        }
        return read if isinstance(node, dict) else list(read.values())

    def _refuse_misspelt(self, node: dict[str, Plain], name: str, keys: tuple[str, ...]) -> None:
        for key, value in node.items():
            close = difflib.get_close_matches(key, KINDS, n=1, cutoff=0.75)
            if keys and close and isinstance(value, list):
                raise self.source.place(
                    SpaceError(name, f"unknown kind of hole {key!r}", remedy=f"Did you mean {close[0]!r}? {FORMS}"),
                    (*keys, key),
                )

    def _hole(
        self,
        node: dict[str, Plain],
        name: str,
        internal: str,
        keys: tuple[str, ...],
        parents: tuple[tuple[str, int], ...],
    ) -> Hole:
        kinds = [kind for kind in KINDS if kind in node]
        if len(kinds) > 1:
            raise SpaceError(name, f"a hole has one kind, but got {' and '.join(kinds)}", remedy=FORMS)
        kind = kinds[0]
        for key in node:
            if key not in _KEYS[kind]:
                error = SpaceError(f"{name}.{key}", f"unknown key in a {kind} hole", remedy=nearest(key, _KEYS[kind]))
                raise self.source.place(error, (*keys, key))
        place = len(self.holes)
        if kind == "choice":
            hole = self._choice(node, name, internal, keys, parents)
        else:
            hole = _range(node, name, internal, "float" if kind == "float" else "int", parents)
        self.holes.insert(place, hole)
        if len(self.holes) > MAX_HOLES:
            raise SpaceError(name, f"a space has at most {MAX_HOLES} holes", remedy="A search of more learns nothing.")
        return hole

    def _choice(
        self,
        node: dict[str, Plain],
        name: str,
        internal: str,
        keys: tuple[str, ...],
        parents: tuple[tuple[str, int], ...],
    ) -> Hole:
        raw = node["choice"]
        if not isinstance(raw, list) or not raw:
            raise SpaceError(name, "`choice` must be a list of at least one entry", raw, "Write {choice: [a, b]}.")
        if len(raw) > MAX_CHOICES:
            raise SpaceError(name, f"`choice` must have at most {MAX_CHOICES} entries", len(raw), "Use an int hole.")
        for i, entry in enumerate(raw):
            if not _finite(entry):
                error = SpaceError(name, "the numbers of a `choice` must be finite", entry)
                raise self.source.place(error, (*keys, "choice", str(i)))
            first = next(j for j, other in enumerate(raw) if same(other, entry))
            if first != i:
                error = SpaceError(name, "the entries of `choice` must differ", entry, "Remove the second one.")
                raise self.source.place(error, (*keys, "choice", str(i)))
        labels = _labels(raw)
        choices = tuple(
            self.read(entry, name, f"{internal}[{label}]", (*keys, "choice", str(i)), (*parents, (internal, i)))
            for i, (entry, label) in enumerate(zip(raw, labels, strict=True))
        )
        numbers = [c for c in raw if is_number(c)]
        ordered = len(numbers) == len(raw) and all(a < b for a, b in pairwise(numbers))
        default = (len(raw) - 1) // 2 if ordered else 0
        if "default" in node:
            default = _position(name, node["default"], raw, labels)
        return Hole(
            name,
            internal,
            "choice",
            choices=choices,
            labels=labels,
            ordered=ordered,
            default=default,
            parents=parents,
        )


def _finite(value: Plain) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not (isinstance(value, float) and not math.isfinite(value)) and all(map(_finite, inner))


def _labels(entries: Sequence[Plain]) -> tuple[str, ...]:
    """A text for each entry of a choice. The index is appended to texts that occur more than once."""

    def label(i: int, entry: Plain) -> str:
        if isinstance(entry, dict):
            return next((text for k in _LABELS if isinstance(text := entry.get(k), str)), str(i))
        return entry if isinstance(entry, str) else _text(entry) or str(i)

    texts = [label(i, entry) for i, entry in enumerate(entries)]
    return tuple(f"{t}#{i}" if texts.count(t) > 1 else t for i, t in enumerate(texts))


def _text(value: Plain) -> str:
    """A plain value as YAML text; empty for a list that contains sections or holes."""
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return ""
    return json.dumps(value)


def _position(name: str, default: Plain, raw: Sequence[Plain], labels: Sequence[str]) -> int:
    for i, entry in enumerate(raw):
        if same(entry, default) or (isinstance(entry, dict) and labels[i] == default):
            return i
    raise SpaceError(f"{name}.default", "must be one of the choices", default, nearest(default, labels))


def _range(
    node: Mapping[str, Plain],
    name: str,
    internal: str,
    kind: Literal["float", "int"],
    parents: tuple[tuple[str, int], ...],
) -> Hole:
    ends = node[kind]
    if not isinstance(ends, list) or len(ends) != 2:
        raise SpaceError(
            name, f"`{kind}` must be a list of two numbers, low and high", ends, "Example: {float: [0, 1]}."
        )
    numbers = [_number(f"{name}.{label}", end, kind) for label, end in zip(("low", "high"), ends, strict=True)]
    low, high = map(float, numbers) if kind == "float" else numbers
    if not low < high:
        raise SpaceError(
            name,
            f"`low < high` must hold, but got low={low}, high={high}",
            remedy=f"Use [{high}, {low}]." if high < low else "Write a constant, without a hole.",
        )
    if not math.isfinite(high - low):
        raise SpaceError(name, "the range is too wide", ends)
    log = node.get("log", False)
    if not isinstance(log, bool):
        raise SpaceError(f"{name}.log", "must be true or false", log)
    if log and low <= 0:
        raise SpaceError(
            name,
            f"`log: true` needs low > 0, but got low={low}",
            remedy="Use low=1." if kind == "int" else "Use a small positive low, such as 1e-4, or no log.",
        )
    step = _step(node, name, kind, low, high, log)
    hole = Hole(name, internal, kind, low, high, log, step, parents=parents)
    default = hole.at_share(0.5)
    if "default" in node:
        default = hole.code_of(node["default"])
        if default is None:
            steps = f" in steps of {step}" if step is not None else ""
            raise SpaceError(
                f"{name}.default",
                f"must be a value of the hole, {kind} from {low} to {high}{steps}",
                node["default"],
            )
    return Hole(name, internal, kind, low, high, log, step, default=default, parents=parents)


def _number(name: str, value: Plain, kind: str) -> float:
    if not is_number(value):
        raise SpaceError(name, "must be a finite number", value)
    if kind == "int" and not is_whole(value):
        raise SpaceError(name, "must be an integer", value, "Use a `float` hole for fractions.")
    return value


def _step(node: Mapping[str, Plain], name: str, kind: str, low: float, high: float, log: bool) -> float | int | None:
    if "step" not in node:
        return 1 if kind == "int" else None
    step = _number(f"{name}.step", node["step"], kind)
    if log:
        raise SpaceError(f"{name}.step", "`step` and `log: true` exclude each other", step, "Remove one of them.")
    if step <= 0:
        raise SpaceError(f"{name}.step", "must be > 0", step)
    if not divides(step, high - low):
        fits = low + math.floor((high - low) / step + 1e-9) * step
        remedy = f"Use high={fits:g}." if fits > low else f"Use step={high - low:g}."
        raise SpaceError(f"{name}.step", f"must divide high - low = {high - low:g}", step, remedy)
    return step
