"""Splitting samples into parts: a seeded, stratified choice, or the user's row numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from harness.errors import SpaceError
from harness.tasks.npz import UNREADABLE, read_npz


def stratified(labels: np.ndarray, count: int, seed: int, leave: int = 0) -> np.ndarray:
    """Choose ``count`` samples in which every class has the same share as in ``labels``.

    Args:
        labels: class of every sample, (N,).
        count: number of samples to choose. It is moved to the nearest possible number: at least one
            sample of each class is chosen and at least ``leave`` are left (of a class of ``leave`` samples
            or fewer, none is chosen).
        seed: the same labels, count and seed give the same choice.
    Returns:
        Ascending indices (count,). The number of samples of a class is within one of its exact share,
        unless one of the limits above applies.
    """
    values, sizes = np.unique(labels, return_counts=True)
    counts = _shares(sizes, count, leave)
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(labels == value))[:n] for value, n in zip(values, counts, strict=True)]
    return np.sort(np.concatenate(chosen))


def _shares(sizes: np.ndarray, count: int, leave: int) -> np.ndarray:
    most = np.maximum(sizes - leave, 0)
    least = np.minimum(1, most)
    count = int(np.clip(count, least.sum(), most.sum()))
    exact = sizes * (count / sizes.sum())
    counts = np.clip(np.floor(exact).astype(np.int64), least, most)
    while (missing := count - counts.sum()) != 0:
        short = exact - counts
        if missing > 0:
            counts[np.argmax(np.where(counts < most, short, -np.inf))] += 1
        else:
            counts[np.argmin(np.where(counts > least, short, np.inf))] -= 1
    return counts


def split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, carved): ``carved`` has the share ``share`` of every class, ``kept`` the rest.

    ``kept`` has at least one sample of every class; ``carved`` has one of every class with two or more.
    """
    carved = stratified(labels, round(share * len(labels)), seed, leave=1)
    return np.setdiff1d(np.arange(len(labels)), carved), carved


def rows_of(file: str, count: int, parts: tuple[str, ...] = ("train", "validation")) -> list[np.ndarray]:
    """The row numbers of each part, from the user's .npz ``file``. Rows 0..``count`` - 1 that no part names are unused.

    Raises:
        SpaceError: at ``task.split``.
    """
    path = Path(os.path.expanduser(file))
    remedy = f"Write it with numpy.savez(file, {', '.join(f'{name}=rows' for name in parts)})."
    try:
        rows_by_part = read_npz(path, parts)
    except UNREADABLE as error:
        raise SpaceError("task.split", f"cannot read row numbers from the .npz ({error})", file, remedy) from error
    for name, rows in zip(parts, rows_by_part, strict=True):
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows):
            got = f"{rows.dtype} {rows.shape}"
            raise SpaceError("task.split", f"{name} in {file} must be a list of row numbers", got, remedy)
        if rows.min() < 0 or rows.max() >= count:
            got = int(rows.min() if rows.min() < 0 else rows.max())
            raise SpaceError("task.split", f"{name} in {file} must hold rows 0..{count - 1}", got)
    together = np.concatenate(rows_by_part)
    if len(np.unique(together)) != len(together):
        values, times = np.unique(together, return_counts=True)
        raise SpaceError("task.split", f"{file} must name a row once, in one part", int(values[times > 1][0]))
    return rows_by_part
