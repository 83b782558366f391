"""Dominance, the incremental front, hypervolume and the knee, with numpy and moocore.

Directions are ``maximize`` or ``minimize`` per objective. A row with a value that is not finite counts as dominated:
an unmeasured point is never on a front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import moocore  # pyright: ignore[reportMissingTypeStubs]  # it ships none
import numpy as np

from harness.stats.direction import Direction


def as_losses(values: np.ndarray, directions: Sequence[Direction]) -> np.ndarray:
    """Values (N, M) with the sign of maximized objectives flipped, so that less is better in all."""
    sign = np.array([1.0 if d == "minimize" else -1.0 for d in directions])
    return np.asarray(values, float).reshape(-1, len(directions)) * sign


def nondominated(values: np.ndarray, directions: Sequence[Direction]) -> np.ndarray:
    """Mask (N,) of the rows of values (N, M) that no other row dominates.

    A row dominates another if it is at least as good in all objectives and better in one. Equal rows do not
    dominate each other, so both stay.
    """
    losses = as_losses(values, directions)
    mask = np.asarray(np.isfinite(losses).all(axis=1))
    if mask.any():
        mask[mask] = moocore.is_nondominated(losses[mask], keep_weakly=True)
    return mask


def hypervolume(values: np.ndarray, reference: Sequence[float], directions: Sequence[Direction]) -> float:
    """Volume that values (N, M) dominate, up to ``reference`` (M,), in the objectives' own units.

    Points that are not better than the reference in every objective add nothing.
    """
    losses = as_losses(values, directions)
    point = as_losses(np.asarray(reference, float), directions)[0]
    inside = losses[(losses < point).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=point)) if len(inside) else 0.0


# Costs on a log scale in hypervolumes: halving a cost counts the same at any size.
LOGGED = ("size_bytes", "latency_ms", "load_ms", "device_latency_ms")


# How far the reference lies beyond the worst row: more gives the extreme points of a front more weight.
BEYOND = 1.5  # factor on the worst cost
MARGIN = 0.1  # for other quantities: share of the rows' range


def reference_point(
    values: np.ndarray, names: Sequence[str], directions: Sequence[Direction], bounds: Mapping[str, float]
) -> dict[str, float]:
    """A reference point for hypervolumes that is worse in every objective than every row of values (N, M), N > 0, so
    that every row contributes.

    For an objective it takes the value in ``bounds`` if all rows are better than that. Otherwise it takes the worst
    row's value, multiplied by ``BEYOND`` for the costs in ``LOGGED``, and for other quantities made worse by
    ``MARGIN`` of the rows' range (by ``MARGIN`` if the range is 0). Rows with a value that is not finite are ignored.
    """
    losses = as_losses(values, directions)
    losses = losses[np.isfinite(losses).all(axis=1)]
    reference: dict[str, float] = {}
    for name, direction, column in zip(names, directions, losses.T, strict=True):
        sign = 1.0 if direction == "minimize" else -1.0
        worst = float(column.max())
        span = float(column.max() - column.min()) or 1.0
        if name in bounds and sign * bounds[name] > worst:
            reference[name] = float(bounds[name])
        else:
            reference[name] = worst * BEYOND if name in LOGGED else sign * (worst + MARGIN * span)
    return reference


def log_hypervolume(values: np.ndarray, reference: Mapping[str, float], directions: Sequence[Direction]) -> float:
    """:func:`hypervolume` of values (N, M), one column for each name in ``reference``, with the quantities in
    ``LOGGED`` on a log scale."""
    if not len(values):
        return 0.0
    logged = np.array([name in LOGGED for name in reference])
    rows = np.vstack([np.asarray(values, float), list(reference.values())])
    rows = np.where(logged, np.log(np.where(logged, np.maximum(rows, 1e-12), 1.0)), rows)
    return hypervolume(rows[:-1], rows[-1].tolist(), directions)


def greedy_subset(losses: np.ndarray, count: int) -> list[int]:
    """Indices of ``count`` of mutually non-dominated losses (N, M), chosen greedily: the next point is always the one
    that adds most hypervolume (Guerreiro, Fonseca, Paquete 2016).

    The reference point lies 10 % beyond the worst loss of each objective. If N <= ``count``, all indices are returned
    in order. The search is lazy: a point's gain can only shrink as others are taken, so only the gain of the currently
    best candidate is recomputed.
    """
    if count >= len(losses) or losses.shape[1] == 1:  # non-dominated points of one objective are all equal
        return [*range(min(count, len(losses)))]
    worst = losses.max(axis=0)
    reference = np.maximum(1.1 * worst, 0.9 * worst)
    reference[reference == 0] = 1e-12
    volume = moocore.Hypervolume(ref=reference)
    alone = np.prod(reference - losses, axis=1)
    gains, known_at = alone.copy(), np.zeros(len(losses), int)
    taken: list[int] = []
    reached = 0.0
    while len(taken) < count:
        i = int(np.argmax(gains))
        if known_at[i] < len(taken):
            gains[i], known_at[i] = volume(losses[[*taken, i]]) - reached, len(taken)
            continue
        taken.append(i)
        reached += gains[i]
        # upper bound of each gain: the point's volume outside the box of the newest point
        gains = np.minimum(gains, alone - np.prod(reference - np.maximum(losses, losses[i]), axis=1))
        gains[taken] = -np.inf
    return taken


def best(
    losses: np.ndarray, count: int, choose: Callable[[np.ndarray, int], Sequence[int]] = greedy_subset
) -> list[int]:
    """Indices of the ``count`` best of losses (N, M); less is better.

    They are taken layer by layer of the non-dominated sorting. ``choose`` gets the losses of a layer's members and the
    number still needed, and returns the indices to take, in order. Rows with a value that is not finite are never
    taken.
    """
    directions: list[Direction] = ["minimize"] * losses.shape[1]
    left, chosen = np.arange(len(losses)), list[int]()
    while len(chosen) < count and (layer := nondominated(losses[left], directions)).any():
        members = left[layer]
        chosen += members[choose(losses[members], count - len(chosen))].tolist()
        left = left[~layer]
    return chosen


def knee(values: np.ndarray, directions: Sequence[Direction]) -> int:
    """Index of the point of a front (N, M) that is nearest to the ideal point (Euclidean distance, every objective
    scaled to its range on the front; the first in a tie).

    On a front of two points every scaled objective is 0 at one point and 1 at the other. The knee is then the point
    that is better in more objectives, even by little. With a tie, as always with two objectives, it is the first.
    """
    losses = as_losses(values, directions)
    low, high = losses.min(axis=0), losses.max(axis=0)
    scaled = (losses - low) / np.where(high > low, high - low, 1.0)
    return int(np.argmin(np.square(scaled).sum(axis=1)))


@dataclass
class Front:
    """A front that grows point by point; adding a point takes time linear in the front's size."""

    directions: tuple[Direction, ...]
    numbers: list[int] = field(default_factory=list[int])
    losses: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.losses = np.empty((0, len(self.directions)))

    def add(self, number: int, values: Sequence[float]) -> bool:
        """Add the point unless a member dominates it, and remove the members that it dominates; returns whether it was
        added."""
        new = as_losses(np.asarray(values, float), self.directions)[0]
        if not np.isfinite(new).all():
            return False
        not_worse = (self.losses <= new).all(axis=1)
        if (not_worse & (self.losses < new).any(axis=1)).any():
            return False
        stays = ~((new <= self.losses).all(axis=1) & (new < self.losses).any(axis=1))
        self.numbers = [n for n, s in zip(self.numbers, stays, strict=True) if s] + [number]
        self.losses = np.vstack([self.losses[stays], new])
        return True

    def values(self) -> np.ndarray:
        """The members' values (N, M), with the original signs."""
        return as_losses(self.losses, self.directions)
