"""The user's arrays in .npz files: ``x`` samples, ``y`` class numbers.

x  (N, F) features, (N, H, W) or (N, C, H, W) images; uint8 or float
y  (N,) integers 0..C-1
"""

from __future__ import annotations

import glob
from itertools import combinations
from pathlib import Path

import numpy as np

from harness.errors import SpaceError
from harness.tasks.checks import Samples, check_together, checked
from harness.tasks.data import VALIDATION, Data, assemble
from harness.tasks.npz import UNREADABLE, read_npz


def arrays(
    train: str,
    test: str,
    validation: float = VALIDATION,
    split_seed: int = 0,
    train_limit: int = 0,
    split: str = "",
    validation_samples: str = "",
) -> Data:
    """Data from .npz files; ``train``, ``test`` and ``validation_samples`` are each a file, or a glob of parts.

    Parts are read in the order of their names. Nothing is unpickled. Without ``validation_samples``, the validation
    part is taken from ``train``: the rows in ``split``, or a seeded split.

    Raises:
        SpaceError: an option is wrong; names ``task.train``, ``task.test``, ``task.split`` or
            ``task.validation_samples``.
    """
    if split and validation_samples:
        raise SpaceError("task.split", "excludes task.validation_samples", split, "Give one of the two.")
    files = {"train": _files("task.train", train), "test": _files("task.test", test)}
    if validation_samples:
        files["validation_samples"] = _files("task.validation_samples", validation_samples)
    for one, other in combinations(files, 2):
        if both := {p.resolve() for p in files[one]} & {p.resolve() for p in files[other]}:
            raise SpaceError(f"task.{other}", f"a file must not be both {one} and {other}", str(min(both)))
    return from_files(
        files["train"],
        files["test"],
        files.get("validation_samples"),
        validation=validation,
        split_seed=split_seed,
        train_limit=train_limit,
        rows=split,
    )


def from_files(
    train: list[Path],
    test: list[Path],
    held: list[Path] | None = None,
    *,
    validation: float,
    split_seed: int,
    train_limit: int,
    rows: str = "",
    class_names: tuple[str, ...] = (),
) -> Data:
    """Data from files, where each of train, test and ``held`` (validation) may consist of several parts."""
    samples = {"train": _joined("task.train", train), "test": _joined("task.test", test)}
    if held is not None:
        samples["validation"] = _joined("task.validation_samples", held)
    check_together("task.train", samples)
    return assemble(
        samples["train"],
        samples["test"],
        validation=samples.get("validation", validation),
        split_seed=split_seed,
        train_limit=train_limit,
        rows=rows,
        class_names=class_names,
    )


def _files(path: str, pattern: str) -> list[Path]:
    expanded = Path(pattern).expanduser()
    files = [expanded] if expanded.is_file() else sorted(Path(p) for p in glob.glob(str(expanded), recursive=True))
    if not files:
        raise SpaceError(path, "no file is there", pattern, f"Paths start from the current folder, {Path.cwd()}.")
    return files


def _joined(path: str, files: list[Path]) -> Samples:
    parts = [_read(path, file) for file in files]
    first = parts[0][0]
    for file, (x, _) in zip(files, parts, strict=True):
        if x.shape[1:] != first.shape[1:] or x.dtype != first.dtype:
            rule = f"{file}: a sample must be {first.dtype} {first.shape[1:]} as in {files[0]}"
            raise SpaceError(path, rule, f"{x.dtype} {x.shape[1:]}")
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def _read(path: str, file: Path) -> Samples:
    remedy = "Write it with numpy.savez_compressed(file, x=x, y=y)."
    try:
        x, y = read_npz(file, ("x", "y"))
    except KeyError as error:
        raise SpaceError(path, f"{file} must hold arrays named x and y; {error.args[0]}", remedy=remedy) from error
    except UNREADABLE as error:
        if _is_single(file):
            rule = f"{file} must be an .npz archive with x and y, not a single array"
        else:
            rule = f"{file} cannot be read as .npz without unpickling ({str(error)[:300]})"
        raise SpaceError(path, rule, remedy=remedy) from error
    return checked(path, str(file), x, y)


def _is_single(file: Path) -> bool:
    """Whether the file is a single array as ``numpy.save`` writes it."""
    if not file.is_file():
        return False
    with open(file, "rb") as start:
        return start.read(6) == b"\x93NUMPY"
