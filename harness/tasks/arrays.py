"""The user's arrays in .npz files: ``x`` samples and ``y`` labels, or one file with all parts.

x            (N, F) features, (N, H, W) or (N, C, H, W) images; uint8 or float
y            (N,) integers or texts: each different value is a class
class_names  (C,) texts, in the order of the sorted labels; optional

A single file for everything has ``x_train y_train x_test y_test``, and optionally ``x_validation y_validation``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import SpaceError
from harness.files.folders import matching
from harness.tasks.checks import Labelled, checked, numbered
from harness.tasks.data import VALIDATION, Data, assemble
from harness.tasks.npz import UNREADABLE, names_in, read_npz
from harness.tasks.split import split as carve

TEST = 0.2  # default share of the samples that is set aside for test, if no test part is given
PARTS = ("train", "test", "validation")
_TEST_SEED = 0
_NAMES = "class_names"


def arrays(
    train: str,
    test: str = "",
    test_share: float = TEST,
    validation: float = VALIDATION,
    split_seed: int = 0,
    train_limit: int = 0,
    split: str = "",
    validation_samples: str = "",
) -> Data:
    """Data from .npz files; ``train``, ``test`` and ``validation_samples`` are each a file, or a glob of parts.

    Parts are read in the order of their names. Nothing is unpickled. Without ``test``, ``train`` may be one file that
    holds all parts; else the share ``test_share`` of every class is set aside for test with a fixed seed. Without
    validation samples, the validation part is taken from train: the rows in ``split``, or a seeded split.

    Raises:
        SpaceError: an option is wrong; names ``task.train``, ``task.test``, ``task.split`` or
            ``task.validation_samples``.
    """
    if split and validation_samples:
        raise SpaceError("task.split", "excludes task.validation_samples", split, "Give one of the two.")
    options: dict[str, Any] = {"validation": validation, "split_seed": split_seed, "train_limit": train_limit}
    given = {"train": train, "test": test, "validation_samples": validation_samples}
    files = {name: _files(f"task.{name}", pattern) for name, pattern in given.items() if pattern or name == "train"}
    if not test and len(files["train"]) == 1 and "x_train" in _names(files["train"][0]):
        if validation_samples:
            rule = "excludes a file of all parts as task.train"
            raise SpaceError("task.validation_samples", rule, validation_samples, "Put x_validation into the file.")
        return from_parts(files["train"][0], rows=split, **options)
    for one, other in combinations(files, 2):
        if both := {p.resolve() for p in files[one]} & {p.resolve() for p in files[other]}:
            raise SpaceError(f"task.{other}", f"a file must not be both {one} and {other}", str(min(both)))
    held = files.get("validation_samples")
    return from_files(files["train"], files.get("test"), held, test_share=test_share, rows=split, **options)


def from_files(
    train: list[Path],
    test: list[Path] | None,
    held: list[Path] | None = None,
    *,
    test_share: float = TEST,
    class_names: Sequence[str] = (),
    **options: Any,
) -> Data:
    """Data from files, where each of train, test and ``held`` (validation) may consist of several parts.

    Without ``test``, the share ``test_share`` of train is set aside. ``options`` are those of :func:`assemble`.
    """
    labelled = {"train": _joined("task.train", train)}
    if test is not None:
        labelled["test"] = _joined("task.test", test)
    if held is not None:
        labelled["validation"] = _joined("task.validation_samples", held)
    names = class_names or _names_in_all([*train, *(test or []), *(held or [])])
    if test is None:
        x, y = labelled["train"]
        rest, apart = carve(y, test_share, _TEST_SEED)
        labelled |= {"train": (x[rest], y[rest]), "test": (x[apart], y[apart])}
    return _assembled(labelled, names, options)


def from_parts(file: Path, **options: Any) -> Data:
    """Data from one file with all parts."""
    there = _names(file)
    parts = [p for p in PARTS if f"x_{p}" in there or f"y_{p}" in there or p != "validation"]
    labelled = {part: _read("task.train", file, (f"x_{part}", f"y_{part}")) for part in parts}
    return _assembled(labelled, _names_of(file), options)


def _assembled(labelled: Mapping[str, Labelled], names: Sequence[str], options: Mapping[str, Any]) -> Data:
    samples, values = numbered("task.train", labelled)
    train, test, held = samples["train"], samples["test"], samples.get("validation")
    if names and len(names) != (classes := len(np.unique(train[1]))):
        raise SpaceError("task.train", f"{_NAMES} must be {classes}, one a class", list(names))
    own = {} if held is None else {"validation": held}
    return assemble(train, test, **{**options, **own}, class_names=names or values)


def _files(path: str, pattern: str) -> list[Path]:
    files = matching(pattern)
    if not files:
        raise SpaceError(path, "no file is there", pattern, f"Paths start from the current folder, {Path.cwd()}.")
    return files


def _joined(path: str, files: list[Path]) -> Labelled:
    parts = [_read(path, file) for file in files]
    first_x, first_y = parts[0]
    for file, (x, y) in zip(files, parts, strict=True):
        if x.shape[1:] != first_x.shape[1:] or x.dtype != first_x.dtype:
            rule = f"{file}: a sample must be {first_x.dtype} {first_x.shape[1:]} as in {files[0]}"
            raise SpaceError(path, rule, f"{x.dtype} {x.shape[1:]}")
        if y.dtype.kind != first_y.dtype.kind:
            raise SpaceError(path, f"{file}: labels must be {first_y.dtype} as in {files[0]}", str(y.dtype))
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def _names(file: Path) -> set[str]:
    """The names of the arrays in a file; empty if it cannot be read, which reading an array will report."""
    try:
        return set(names_in(file))
    except UNREADABLE:
        return set()


def _names_in_all(files: Sequence[Path]) -> tuple[str, ...]:
    """The ``class_names`` of these files, of which each has the same or none."""
    named = {file: names for file in files if (names := _names_of(file))}
    first = next(iter(named.values()), ())
    for file, names in named.items():
        if names != first:
            raise SpaceError("task.train", f"{file}: {_NAMES} must be those of the other files", list(names))
    return first


def _names_of(file: Path) -> tuple[str, ...]:
    """The ``class_names`` in a file; empty if it has none."""
    if _NAMES not in _names(file):
        return ()
    try:
        names = read_npz(file, (_NAMES,))[0]
    except UNREADABLE as error:
        raise SpaceError("task.train", f"{file}: {_NAMES} cannot be read ({str(error)[:300]})") from error
    if names.ndim != 1 or names.dtype.kind != "U":
        raise SpaceError("task.train", f"{file}: {_NAMES} must be texts, one a class", f"{names.dtype} {names.shape}")
    if len(set(names.tolist())) < len(names):
        raise SpaceError("task.train", f"{file}: {_NAMES} must differ", names.tolist()[:20])
    return tuple(map(str, names))


def _read(path: str, file: Path, names: tuple[str, str] = ("x", "y")) -> Labelled:
    remedy = f"Write it with numpy.savez_compressed(file, {', '.join(f'{name}={name}' for name in names)})."
    try:
        x, y = read_npz(file, names)
    except KeyError as error:
        rule = f"{file} must hold arrays named {' and '.join(names)}; {error.args[0]}"
        raise SpaceError(path, rule, remedy=remedy) from error
    except UNREADABLE as error:
        if _is_single(file):
            rule = f"{file} must be an .npz archive with x and y, not a single array"
        else:
            rule = f"{file} cannot be read as .npz without unpickling ({str(error)[:300]})"
            remedy = "Texts are stored with y.astype(str)." if "objects" in str(error) else remedy
        raise SpaceError(path, rule, remedy=remedy) from error
    return checked(path, str(file), x, y)


def _is_single(file: Path) -> bool:
    """Whether the file is a single array as ``numpy.save`` writes it."""
    if not file.is_file():
        return False
    with open(file, "rb") as start:
        return start.read(6) == b"\x93NUMPY"
