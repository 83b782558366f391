"""Dominance, the incremental front, hypervolume and the knee. Plain numpy and moocore.

Directions are ``maximize`` or ``minimize`` per objective. A row with a NaN is dominated by
definition: an unmeasured point is never on a front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import moocore
import numpy as np

from harness.stats.direction import Direction


def as_losses(values: np.ndarray, directions: Sequence[Direction]) -> np.ndarray:
    """Values (N, M) with every objective turned so that less is better."""
    sign = np.array([1.0 if d == "minimize" else -1.0 for d in directions])
    return np.asarray(values, float).reshape(-1, len(directions)) * sign


def nondominated(values: np.ndarray, directions: Sequence[Direction]) -> np.ndarray:
    """Mask (N,) of the rows of values (N, M) that no other row dominates.

    A row dominates another when it is nowhere worse and somewhere better; equal rows do not
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


# Costs whose halving counts the same wherever it happens: hypervolumes take their logarithms.
LOGGED = ("size_bytes", "latency_ms", "load_ms", "device_latency_ms")


BEYOND = 1.5  # a reference point's cost over the worst one that counts
MARGIN = 0.1  # its distance from the worst value of any other quantity, of their range


def reference_point(
    values: np.ndarray, names: Sequence[str], directions: Sequence[Direction], bounds: Mapping[str, float]
) -> dict[str, float]:
    """A hypervolume's reference that every row of values (N, M), N > 0, is better than in every objective, so
    that each of them counts.

    An objective's value is that of ``bounds`` where all rows are better than it; else the worst row's, times
    ``BEYOND`` for the costs in ``LOGGED``, for others moved by ``MARGIN`` of the rows' range (of 1 where
    that is 0). Rows with a value that is not finite do not count.
    """
    losses = as_losses(values, directions)
    losses = losses[np.isfinite(losses).all(axis=1)]
    found: dict[str, float] = {}
    for name, direction, column in zip(names, directions, losses.T, strict=True):
        sign = 1.0 if direction == "minimize" else -1.0
        worst = float(column.max())
        span = float(column.max() - column.min()) or 1.0
        if name in bounds and sign * bounds[name] > worst:
            found[name] = float(bounds[name])
        else:
            found[name] = worst * BEYOND if name in LOGGED else sign * (worst + MARGIN * span)
    return found


def log_hypervolume(values: np.ndarray, reference: Mapping[str, float], directions: Sequence[Direction]) -> float:
    """:func:`hypervolume` of values (N, M), one column for each name of ``reference``, with the
    logarithms of the quantities in ``LOGGED``."""
    if not len(values):
        return 0.0
    logged = np.array([name in LOGGED for name in reference])
    rows = np.vstack([np.asarray(values, float), list(reference.values())])
    rows = np.where(logged, np.log(np.where(logged, np.maximum(rows, 1e-12), 1.0)), rows)
    return hypervolume(rows[:-1], rows[-1].tolist(), directions)


def greedy_subset(losses: np.ndarray, count: int) -> list[int]:
    """Indices of ``count`` of mutually non-dominated losses (N, M): always the one next that adds most
    hypervolume (Guerreiro, Fonseca, Paquete 2016) up to a point a tenth beyond the worst of each objective. Where
    there are no more than ``count``, all as they come.

    Lazily: what a point adds only shrinks as others are taken, so only the point that promised most is
    computed again.
    """
    if count >= len(losses) or losses.shape[1] == 1:  # of one objective all of them are equal
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
        # at most what the newest alone leaves of it
        gains = np.minimum(gains, alone - np.prod(reference - np.maximum(losses, losses[i]), axis=1))
        gains[taken] = -np.inf
    return taken


def best(
    losses: np.ndarray, count: int, choose: Callable[[np.ndarray, int], Sequence[int]] = greedy_subset
) -> list[int]:
    """Indices of the ``count`` best of losses (N, M), less is better: layer after layer of the non-dominated
    sorting, each in the order of ``choose`` (the members' losses, how many there is room for). Rows with a value
    that is not finite are never among them."""
    directions: list[Direction] = ["minimize"] * losses.shape[1]
    left, chosen = np.arange(len(losses)), list[int]()
    while len(chosen) < count and (layer := nondominated(losses[left], directions)).any():
        members = left[layer]
        chosen += members[choose(losses[members], count - len(chosen))].tolist()
        left = left[~layer]
    return chosen


def knee(values: np.ndarray, directions: Sequence[Direction]) -> int:
    """Index of the point of a front (N, M) nearest to the ideal one, each objective scaled to its
    range on the front (Euclidean distance; the first of equals).

    Of two points each objective is 0 at one and 1 at the other, so the point that is better in more objectives
    is the knee, by however little; where both are better in equally many (always with two objectives), the
    first.
    """
    losses = as_losses(values, directions)
    low, high = losses.min(axis=0), losses.max(axis=0)
    scaled = (losses - low) / np.where(high > low, high - low, 1.0)
    return int(np.argmin(np.square(scaled).sum(axis=1)))


@dataclass
class Front:
    """A front that grows by one point at a time, in O(its size) a point."""

    directions: tuple[Direction, ...]
    numbers: list[int] = field(default_factory=list)
    losses: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.losses = np.empty((0, len(self.directions)))

    def add(self, number: int, values: Sequence[float]) -> bool:
        """Take the point in unless a member dominates it; members that it dominates leave."""
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
        """Members' values (N, M) in their own directions."""
        return as_losses(self.losses, self.directions)
