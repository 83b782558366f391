"""Declarations of methods that a recipe may name, readable without importing torch.

A method is a function and a :class:`Method`, which declares the function's location and its
keyword arguments. The registries are literal dicts of declarations; a contract test compares
every declaration with the signature of its function.
"""

from __future__ import annotations

import difflib
import importlib
import math
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeGuard, cast

from harness.errors import SpaceError

REQUIRED: Any = object()
FLOAT_BITS = 32  # `bits` of a layer that is not quantized
_LARGEST = sys.float_info.max
RESPELLED = {"regularise": "regularize", "standardised": "standardized"}  # old spellings of names in YAML -> new ones


@dataclass(frozen=True)
class Param:
    """The declaration of one keyword argument of a method: type, range and default.

    ``by_layer``: the value may be a mapping with a value per layer; its keys are ``default`` and any of ``first``,
    ``last`` and the paths of layers in the network.
    ``shapes``: size and latency of the file depend on the argument, also without training.
    """

    type: type
    default: Any = REQUIRED
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    choices: tuple[Any, ...] = ()
    by_layer: bool = False
    shapes: bool = False
    doc: str = ""

    def rule(self) -> str:
        """The constraint in words, for error messages."""
        if self.choices:
            return "must be one of " + ", ".join(str(c) for c in self.choices)
        kind = {
            float: "a number",
            int: "an integer",
            str: "a text",
            bool: "true or false",
            list: "a list of at least one integer",
        }[self.type]
        left = "" if self.low == -math.inf else f"{self.low:g} {'<' if self.low_open else '<='} "
        right = "" if self.high == math.inf else f" {'<' if self.high_open else '<='} {self.high:g}"
        return f"must be {kind}" + (f" with {left}value{right}" if left or right else "")

    def check(self, path: str, value: Any) -> Any:
        """Return ``value`` in the declared type or raise :class:`SpaceError`."""
        if self.by_layer and is_mapping(value):
            if "default" not in value:
                raise SpaceError(path, "a value for each layer needs a `default`", dict(value), "Add `default:`.")
            return {str(layer): self._scalar(f"{path}.{layer}", v, self.type) for layer, v in value.items()}
        if self.type is list:
            if not isinstance(value, list | tuple) or not value:
                raise self._wrong(path, value)
            return [self._scalar(f"{path}.{i}", v, int) for i, v in enumerate(cast(Sequence[Any], value))]
        return self._scalar(path, value, self.type)

    def _scalar(self, path: str, value: Any, kind: type) -> Any:
        number = kind in (float, int)
        fits = self._in_range(value, kind) if number else isinstance(value, kind)
        if not fits or (self.choices and value not in self.choices):
            raise self._wrong(path, value)
        return kind(value) if number else value

    def _in_range(self, value: Any, kind: type) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float if kind is float else int):
            return False
        below = value < self.low or (self.low_open and value == self.low)
        above = value > self.high or (self.high_open and value == self.high)
        return abs(value) <= _LARGEST and not below and not above

    def _wrong(self, path: str, value: Any) -> SpaceError:
        return SpaceError(path, self.rule(), value, self._remedy(value))

    def _remedy(self, value: Any) -> str:
        no_default = self.default is REQUIRED or self.default is None
        is_hole = isinstance(value, Mapping)
        hint = "" if no_default or is_hole else f"The default is {self.default!r}."
        return respelling(value, self.choices) or hint


def declared(kind: type, default: Any, **rule: Any) -> Any:
    """A dataclass field with its default, and with the :class:`Param` that :func:`declarations` reads."""
    return field(default=default, metadata={"param": Param(kind, default, **rule)})


def declarations(part: type) -> dict[str, Param]:
    """The declared fields of a dataclass by name."""
    return {f.name: f.metadata["param"] for f in fields(part) if "param" in f.metadata}


def mapping(path: str, value: Any, remedy: str) -> dict[str, Any]:
    """A section's ``value`` with texts as keys; ``remedy`` says how it is written."""
    if not is_mapping(value):
        raise SpaceError(path, "must be a mapping", value, remedy)
    return {str(name): inner for name, inner in value.items()}


def checked(path: str, value: Any, params: Mapping[str, Param]) -> dict[str, Any]:
    """The section ``value`` as ``params`` declare it, defaults filled in. Every section of a space or recipe that
    has declared keys is checked here.

    Raises:
        SpaceError: with the dotted name of the first mistake.
    """
    section = mapping(path, value, f"Keys: {', '.join(params)}.")
    for name in section:
        if name not in params:
            raise SpaceError(f"{path}.{name}", "unknown key", remedy=nearest(name, params))
    result: dict[str, Any] = {}
    for name, param in params.items():
        if name in section and not (section[name] is None and param.default is None):
            result[name] = param.check(f"{path}.{name}", section[name])
        elif param.default is REQUIRED:
            raise SpaceError(f"{path}.{name}", "is required and " + param.rule(), remedy=f"Add `{name}:`.")
        else:
            result[name] = param.default
    return result


@dataclass(frozen=True)
class Method:
    """The declaration of a technique, task, model family or runtime.

    target  ``package.module:function``, imported only in processes that call it (the driver never imports torch, so
            declarations are separate from the functions)
    params  its keyword arguments; numbers are passed as 0-d tensors, texts unchanged
    loop    further options, which the training loop reads: when and where the method acts
    off     parameter values at which it does nothing; None if there are no such values
    free    accept any keyword (the user's own code)
    """

    target: str
    params: Mapping[str, Param] = field(default_factory=dict[str, Param])
    loop: Mapping[str, Param] = field(default_factory=dict[str, Param])
    off: Mapping[str, Any] | None = None
    free: bool = False

    @property
    def options(self) -> dict[str, Param]:
        """All options that a recipe's section may set."""
        return {**self.params, **self.loop}

    def load(self) -> Callable[..., Any]:
        """Import and return the function."""
        return load_target(self.target)


@dataclass(frozen=True)
class ClipMethod(Method):
    """A clipping method.

    on       its input: the whole ``gradient`` as one vector, the gradients of all parameters by name (``gradients``),
             or the ``weights`` after a step
    carries  state between steps: name -> (length, or 0 for a number; initial value)
    """

    on: Literal["gradient", "gradients", "weights"] = "gradient"
    carries: Mapping[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])


@dataclass(frozen=True)
class PruneMethod(Method):
    """A pruning method.

    structure_known  ``before`` training (size and latency follow from the recipe) or ``after``
    graph_known      when operators and their shapes, and so the latency, are known: ``before`` if only the stored
                     bytes depend on the training
    after_where      option values at which the structure is known only after training; overrides ``structure_known``
    """

    structure_known: Literal["before", "after"] = "before"
    graph_known: Literal["before", "after"] = "before"
    after_where: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def knows_structure(self, options: Mapping[str, Any]) -> bool:
        """Whether size and latency follow from a recipe with these ``options`` before training."""
        later = any(options.get(name) == value for name, value in self.after_where.items())
        return self.structure_known == "before" and not later


@dataclass(frozen=True)
class QuantMethod(Method):
    """A weight quantizer. ``learns``: ``package.module:function`` that gives the first values of the tensors that it
    trains beside the network; empty where it trains none."""

    learns: str = ""


@dataclass(frozen=True)
class DistillMethod(Method):
    """A distillation method. ``needs``: what it asks of the teacher, see :mod:`harness.train.teacher`."""

    needs: frozenset[str] = frozenset()


def load_target(target: str, path: str = "") -> Callable[..., Any]:
    """Import ``package.module:function``; a failure is a :class:`SpaceError` naming ``path``."""
    module, _, name = target.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # the import of a user's module may raise anything
        raise SpaceError(
            path,
            f"cannot import {target!r} ({type(error).__name__}: {error})",
            remedy="Run from the folder that holds the package, or install it.",
        ) from error
    if not callable(function):
        raise SpaceError(path, f"{target!r} must be a function", function)
    return function


def load_own(target: str, path: str = "") -> Callable[..., Any]:
    """Import the user's ``package.module:function``. The current folder is searched first, as ``python -m`` does."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    return load_target(target, path)


def respelling(word: Any, known: Collection[Any] | None = None) -> str:
    """A sentence that names the new spelling of ``word``, where that is ``known`` if given; empty where it has none."""
    new = RESPELLED.get(word, "") if isinstance(word, str) else ""
    return f"`{word}` is spelled `{new}`." if new and (known is None or new in known) else ""


def nearest(word: Any, known: Collection[Any]) -> str:
    """A sentence with the new spelling of ``word``; else a 'did you mean' sentence with the list of known names, or
    only the list."""
    if new := respelling(word, known):
        return new
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    listed = ", ".join(str(k) for k in known)
    return f"Did you mean {close[0]!r}? Known: {listed}." if close else f"Known: {listed}."


@dataclass(frozen=True)
class Registries:
    """The literal dicts of what a recipe's sections may name."""

    tasks: Mapping[str, Method]
    models: Mapping[str, Method]
    clips: Mapping[str, ClipMethod]
    pruners: Mapping[str, PruneMethod]
    quantizers: Mapping[str, QuantMethod]
    distills: Mapping[str, DistillMethod]
    runtimes: Mapping[str, Method]


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether ``value`` is a mapping, of whatever keys and values (which ``isinstance`` leaves unknown to pyright)."""
    return isinstance(value, Mapping)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether ``value`` is a finite number, other than true and false. numpy's numbers count; numpy is not imported."""
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):  # an array, an integer beyond floats
        return False


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether ``value`` is a finite number of an integer type (8.0 is not)."""
    return is_number(value) and hasattr(value, "__index__")
