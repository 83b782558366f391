"""Seeded, stratified choice of samples: how one part is carved out of another."""

from __future__ import annotations

import numpy as np


def stratified(labels: np.ndarray, count: int, seed: int, leave: int = 0) -> np.ndarray:
    """Choose ``count`` samples in which every class has its share.

    Args:
        labels: class of every sample, (N,).
        count: samples to choose. It is moved to the nearest number that can be had: each class
            gives at least one sample and keeps at least ``leave`` (a class of ``leave`` samples
            or fewer gives none).
        seed: the same labels, count and seed give the same choice.
    Returns:
        Ascending indices (count,). A class's number of samples is within one of its exact share,
        except where the limits above decide it.
    """
    values, sizes = np.unique(labels, return_counts=True)
    taken = _shares(sizes, count, leave)
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(labels == value))[:n] for value, n in zip(values, taken, strict=True)]
    return np.sort(np.concatenate(chosen))


def _shares(sizes: np.ndarray, count: int, leave: int) -> np.ndarray:
    most = np.maximum(sizes - leave, 0)
    least = np.minimum(1, most)
    count = int(np.clip(count, least.sum(), most.sum()))
    exact = sizes * (count / sizes.sum())
    taken = np.clip(np.floor(exact).astype(np.int64), least, most)
    while (missing := count - taken.sum()) != 0:
        short = exact - taken
        if missing > 0:
            taken[np.argmax(np.where(taken < most, short, -np.inf))] += 1
        else:
            taken[np.argmin(np.where(taken > least, short, np.inf))] -= 1
    return taken


def split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, carved): ``carved`` holds ``share`` of every class, ``kept`` the others.

    Every class keeps at least one sample; one with two or more gives at least one.
    """
    carved = stratified(labels, round(share * len(labels)), seed, leave=1)
    return np.setdiff1d(np.arange(len(labels)), carved), carved
