"""Fronts against brute force, closed-form volumes, NaN never a member."""

import itertools
import math

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.pareto import Front, hypervolume, knee, nondominated

SETTINGS = settings(max_examples=80, deadline=None)
GRID = st.lists(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan]), min_size=3, max_size=3), min_size=1, max_size=14
)
DIRECTIONS = ("maximize", "minimize", "minimize")


def brute_force(rows: np.ndarray) -> list[bool]:
    losses = rows * np.array([-1, 1, 1])

    def dominated(i: int) -> bool:
        return any((losses[j] <= losses[i]).all() and (losses[j] < losses[i]).any() for j in range(len(rows)))

    return [bool(np.isfinite(rows[i]).all()) and not dominated(i) for i in range(len(rows))]


@SETTINGS
@given(GRID)
def test_front_equals_brute_force_and_the_incremental_one(rows):
    values = np.array(rows)
    mask = nondominated(values, DIRECTIONS)
    assert mask.tolist() == brute_force(values)
    front = Front(DIRECTIONS)
    for number, row in enumerate(rows):
        front.add(number, row)
    assert sorted(front.numbers) == np.flatnonzero(mask).tolist()
    assert np.array_equal(np.sort(front.values(), axis=0), np.sort(values[mask], axis=0))


@SETTINGS
@given(GRID, st.randoms())
def test_permuting_permutes(rows, rng):
    order = list(range(len(rows)))
    rng.shuffle(order)
    values = np.array(rows)
    assert np.array_equal(nondominated(values[order], DIRECTIONS), nondominated(values, DIRECTIONS)[order])


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_staircase_has_its_closed_form(n):
    """Points (i, n-1-i) under reference (n, n): n*n minus the triangle below, n*(n-1)/2."""
    values = np.array([[i, n - 1 - i] for i in range(n)], float)
    assert hypervolume(values, [n, n], ("minimize", "minimize")) == n * n - n * (n - 1) // 2


@SETTINGS
@given(st.integers(0, 1000), st.integers(1, 12))
def test_volume_is_inclusion_exclusion(seed, n):
    points = np.random.default_rng(seed).random((n, 3))
    boxes = 0.0
    for k in range(1, min(n, 8) + 1):
        for some in itertools.combinations(points[:8], k):
            boxes += (-1) ** (k + 1) * np.prod(1 - np.max(some, axis=0))
    assert hypervolume(points[:8], [1, 1, 1], ("minimize",) * 3) == pytest.approx(boxes)


def test_points_beyond_the_reference_add_nothing():
    assert hypervolume(np.array([[0.4, 2.0], [0.9, 0.5]]), [0.5, 1.0], ("maximize", "minimize")) == pytest.approx(0.2)
    assert hypervolume(np.empty((0, 2)), [0.5, 1.0], ("maximize", "minimize")) == 0.0


def test_large_random_front_equals_moocore():
    points = np.random.default_rng(0).random((2000, 3))
    ours = nondominated(points, ("minimize",) * 3)
    assert np.array_equal(ours, moocore.is_nondominated(points, keep_weakly=True))


def test_equal_points_both_stay_and_nan_never_does():
    assert nondominated(np.array([[1.0, 1], [1, 1], [np.nan, 0]]), ("minimize", "minimize")).tolist() == [
        True,
        True,
        False,
    ]
    assert not Front(("minimize",)).add(0, [math.nan])


def test_knee_is_the_corner():
    values = np.array([[0.5, 1.0], [0.9, 2.0], [0.95, 10.0]])
    assert knee(values, ("maximize", "minimize")) == 1
    assert knee(values[:1], ("maximize", "minimize")) == 0
