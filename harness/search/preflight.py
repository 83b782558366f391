"""Checks of a space that the driver makes before it starts Ray, without running the user's code, and the recipes with
which the examination tests the rest before the first trial."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from itertools import islice, product
from pathlib import Path
from typing import Any

from harness.errors import SpaceError
from harness.files.folders import matching
from harness.methods import FLOAT_BITS, nearest
from harness.recipe import TRAIN
from harness.records import DIRECTIONS
from harness.space.baselines import widest_code
from harness.space.distributions import Hole
from harness.space.space import Space

Keys = tuple[str, ...]

_NAMES = {
    "task": "name",
    "student": "model",
    "teacher": "model",
    "deploy": "runtime",
}  # section -> key of the user's code
_POSITIONAL = {"task": (), "student": ("input_shape", "classes"), "teacher": ("input_shape", "classes")}
_RUNTIME = ("path", "threads")
_NOT_OPTIONS = {
    "task": {"name", "normalize"},
    "student": {"model", "checkpoint"},
    "teacher": {"model", "checkpoint", "clip", "seed", *TRAIN},
}
_FILES = ("train", "test", "validation_samples", "split")
PROOF_BITS = 4  # products of such small integers saturate on no processor
MAX_PROOFS = 6  # bounds the time of the examination
MAX_TEACHERS = 16  # bounds the time of the preparation


def check_given(space: Space) -> None:
    """Check that the modules, functions and files named in ``space`` exist, and that the functions accept their
    arguments.

    Raises:
        SpaceError: at the line of the first mistake.
    """
    tree = space.source.tree
    for section, key in _NAMES.items():
        for keys, part in _mappings(tree.get(section), (section,)):
            for place, target in _texts(part.get(key), (*keys, key)):
                if ":" in target:
                    with space.source.at(f"{section}.{key}", place):
                        _check_function(section, key, target, part)
            for place, file in _texts(part.get("checkpoint"), (*keys, "checkpoint")):
                with space.source.at(f"{section}.checkpoint", place):
                    _check_file(f"{section}.checkpoint", file)
    task = tree["task"]
    for key in _FILES:
        if isinstance(task.get(key), str) and task[key] and ":" not in str(task.get("name")):
            with space.source.at(f"task.{key}", ("task", key)):
                _check_file(f"task.{key}", task[key])


def named(space: Space) -> Iterator[tuple[str, str]]:
    """The user's functions named in ``space``, as pairs: place in the space, ``package.module:function``."""
    for section, key in _NAMES.items():
        for keys, part in _mappings(space.source.tree.get(section), (section,)):
            yield from ((f"{section}.{key}", text) for _, text in _texts(part.get(key), (*keys, key)) if ":" in text)


def _mappings(node: Any, keys: Keys) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """The section and, if it is a choice, the sections to choose from."""
    if isinstance(node, Mapping):
        yield keys, node
        for i, entry in enumerate(node["choice"] if isinstance(node.get("choice"), list) else []):
            yield from _mappings(entry, (*keys, "choice", str(i)))


def _texts(node: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(node, str):
        yield keys, node
    elif isinstance(node, Mapping) and isinstance(node.get("choice"), list):
        for i, entry in enumerate(node["choice"]):
            yield from _texts(entry, (*keys, "choice", str(i)))


def _check_file(path: str, pattern: str) -> None:
    if not matching(pattern):
        raise SpaceError(path, "no such file", pattern, f"Paths start from the current folder, {Path.cwd()}.")


def _check_function(section: str, key: str, target: str, part: Mapping[str, Any]) -> None:
    path = f"{section}.{key}"
    module, _, name = target.partition(":")
    spec = find_spec(path, target, module)
    if spec.origin is None or not spec.origin.endswith(".py"):
        return  # compiled, or a package without a file: only importing it tells more
    try:
        body = ast.parse(Path(spec.origin).read_bytes()).body
    except (OSError, SyntaxError, ValueError) as error:
        raise SpaceError(path, f"cannot import {target!r} ({type(error).__name__}: {error})") from error
    names = dict(_defined(body))
    if name not in names and not {"*", "__getattr__"} & set(names):
        rule = f"cannot import {target!r}: {spec.origin} has no function {name!r}"
        raise SpaceError(
            path, rule, remedy=nearest(name, [n for n, definition in names.items() if definition is not None])
        )
    definition = names.get(name)
    if isinstance(definition, ast.FunctionDef) and not definition.decorator_list:
        positional = _POSITIONAL.get(section, _RUNTIME)
        options = None if section == "deploy" else {str(k) for k in part} - _NOT_OPTIONS[section]
        _check_arguments(path, target, definition.args, positional, options or set())


def find_spec(path: str, target: str, module: str) -> ModuleSpec:
    """The spec of a module, found without running the module or its parent packages.

    Raises:
        SpaceError: at ``path``, there is no such module.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    first, *below = module.split(".")
    try:
        spec, qualified = importlib.util.find_spec(first) if first else None, first
        for part in below:
            if spec is None:
                break
            qualified, inside = f"{qualified}.{part}", spec.submodule_search_locations or []
            spec = next(filter(None, (_in_folder(folder, qualified) for folder in inside)), None)
    except (ImportError, ValueError):
        spec, qualified = None, module
    if spec is None:
        remedy = "Run from the folder that holds the package, or install it."
        raise SpaceError(path, f"cannot import {target!r} (there is no module {qualified!r})", remedy=remedy)
    return spec


def _in_folder(folder: str, name: str) -> ModuleSpec | None:
    """The spec of module ``name`` in a package's folder. (`PathFinder` would import the parent packages.)"""
    loaders = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceFileLoader, SOURCE_SUFFIXES))
    return FileFinder(folder, *loaders).find_spec(name)


def _defined(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt | None]]:
    """Names defined at the top level of a module, each with its definition if that is a function or class, else None.
    A star import gives the name ``*``."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name, statement
            continue
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name, None) for alias in statement.names)
            continue
        for inner in ("body", "orelse", "finalbody"):
            yield from ((name, None) for name, _ in _defined(getattr(statement, inner, [])))
        for handler in getattr(statement, "handlers", []):
            yield from ((name, None) for name, _ in _defined(handler.body))
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id, None


def _check_arguments(
    path: str, target: str, args: ast.arguments, positional: tuple[str, ...], options: set[str]
) -> None:
    """Check that the call ``function(*positional, **options)`` fits the definition."""
    places = [a.arg for a in (*args.posonlyargs, *args.args)]
    needed = places[: len(places) - len(args.defaults)]
    by_name = {*places[len(positional) :], *(a.arg for a in args.kwonlyargs)}
    needed_by_name = {*needed[len(positional) :]} | {
        a.arg for a, default in zip(args.kwonlyargs, args.kw_defaults, strict=True) if default is None
    }
    call = f"{target!r} is called as ({', '.join([*positional, *(f'{name}=...' for name in sorted(options))])})"
    got = f"({ast.unparse(args)})"
    if args.vararg is None and len(places) < len(positional):
        raise SpaceError(path, f"{call} and must take that", got)
    if missing := needed_by_name - options:
        section = path.partition(".")[0]
        remedy = f"Add `{min(missing)}:` to `{section}:`, or give it a default."
        raise SpaceError(path, f"{call} but also needs {', '.join(sorted(missing))}", got, remedy)
    if args.kwarg is None and (unknown := options - by_name):
        option, section = min(unknown), path.partition(".")[0]
        remedy = nearest(option, sorted(by_name)) if by_name else "Leave it out: the function has no options."
        raise SpaceError(f"{section}.{option}", f"{target!r} takes {got} and has no such option", remedy=remedy)


def looked_at(space: Space) -> dict[str, tuple[Any, ...]]:
    """The arguments of each stage of :class:`~harness.search.examination.Examination`."""
    files = [*teacher_trees(space), *(_tree(space, codes) for codes in _each(space, ("student", "student.checkpoint")))]
    return {
        "examine": (files, own_metrics(space), space.settings.allow_weak),
        "fingerprint": (files[0],),
        "prove": (proof_trees(space),),
    }


def own_metrics(space: Space) -> dict[str, str]:
    """The metrics that the task itself must return: place in the space -> name."""
    objectives = {f"objectives.{i}": o.name for i, o in enumerate(space.objectives)}
    names = objectives | {f"constraints.{name}": name for name in space.constraints}
    return {path: name for path, name in names.items() if name not in DIRECTIONS}


def teacher_trees(space: Space) -> list[dict[str, Any]]:
    """One recipe for each teacher in the space (at most MAX_TEACHERS); all else at its default."""
    holes = [h for h in space.holes if h.name.startswith("teacher")]
    trees: dict[str, dict[str, Any]] = {}
    for codes in islice(product(*(h.spread(MAX_TEACHERS) for h in holes)), 256):
        forced = {h.internal: c for h, c in zip(holes, codes, strict=True)}
        params = space.sample(lambda hole, f=forced: f.get(hole.internal, hole.default))
        tree = space.fill(params).to_tree()
        trees.setdefault(repr(tree["teacher"]), tree)
    return list(trees.values())[:MAX_TEACHERS]


def proof_trees(space: Space) -> list[dict[str, Any]]:
    """Recipes whose students the examination tests: the widest uncompressed student, and for each model the widest
    student compressed as in the space. At most MAX_PROOFS."""
    compressed = [_tree(space, codes) for codes in _each(space, ("student", "student.model"))]
    searched = any(hole.name.startswith("quant") for hole in space.holes)
    for quant in (tree["quant"] for tree in compressed):
        if isinstance(quant["bits"], int) and (searched or quant["bits"] < FLOAT_BITS):
            quant["bits"] = min(quant["bits"], PROOF_BITS)
    unique = {repr(tree): tree for tree in (space.baselines()[0].recipe.to_tree(), *compressed)}
    return list(unique.values())[:MAX_PROOFS]


def _each(space: Space, names: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """For each alternative of the choices in ``names``, the codes that select it; one empty mapping if there are no
    such choices."""
    holes = [hole for hole in space.holes if hole.kind == "choice" and hole.name in names]
    yield from ({h.internal: code, **dict(h.parents)} for h in holes for code in range(len(h.choices)))
    if not holes:
        yield {}


def _tree(space: Space, codes: Mapping[str, int]) -> dict[str, Any]:
    """The widest student with the given ``codes``, pruned if the space prunes; all else at its default."""

    def code(hole: Hole) -> Any:
        if hole.internal in codes:
            return codes[hole.internal]
        if hole.name.startswith("student"):
            return widest_code(hole)
        if hole.name == "prune":
            pruned = (i for i, choice in enumerate(hole.choices) if isinstance(choice, Mapping) and "ratio" in choice)
            return next(pruned, hole.default)
        return hole.default

    return space.fill(space.sample(code)).to_tree()
