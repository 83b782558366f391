"""Fronts against brute force, closed-form volumes, NaN never a member."""

import itertools
import math

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats.pareto import Front, best, greedy_subset, hypervolume, knee, nondominated

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


@pytest.mark.parametrize("first", [0, 1])
def test_the_knee_of_two_points_is_the_one_better_in_more_objectives(first):
    pair = np.array([[0.99, 100.0, 1.0], [0.10, 99.9, 0.999]])[[first, 1 - first]]
    assert knee(pair, ("maximize", "minimize", "minimize")) == (1 - first)
    assert knee(pair[:, :2], ("maximize", "minimize")) == 0, "one objective each: the first"


def sphere(seed, n, m):
    """Points (N, M) of which none dominates another, less is better."""
    points = np.abs(np.random.default_rng(seed).normal(size=(n, m))) + 0.01
    return 2 - points / np.linalg.norm(points, axis=1, keepdims=True)


def volume(losses):
    """Up to a tenth beyond the worst of the whole layer, as ``greedy_subset`` has it."""
    reference = 1.1 * losses.max(axis=0)
    return lambda rows: hypervolume(losses[list(rows)], reference.tolist(), ["minimize"] * losses.shape[1])


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(2, 14), st.integers(2, 4), st.data())
def test_the_subset_takes_always_what_adds_most(seed, n, m, data):
    losses = sphere(seed, n, m)
    count, held = data.draw(st.integers(1, n - 1)), volume(losses)
    found = greedy_subset(losses, count)
    assert len(set(found)) == count and sorted(greedy_subset(losses, n + 1)) == [*range(n)]
    for k, i in enumerate(found):
        most = max(held([*found[:k], j]) for j in range(n) if j not in found[:k])
        assert held([*found[:k], i]) == pytest.approx(most, rel=1e-9)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(2, 8), st.data())
def test_the_subset_holds_the_share_that_is_proven(seed, n, data):
    """Nemhauser, Wolsey, Fisher 1978: greedily at least 1 - 1/e of the best."""
    losses = sphere(seed, n, 3)
    count, held = data.draw(st.integers(1, n)), volume(losses)
    most = max(held(rows) for rows in itertools.combinations(range(n), count))
    assert held(greedy_subset(losses, count)) >= (1 - 1 / math.e) * most


def test_the_best_are_whole_layers_and_part_of_the_next():
    layer = sphere(1, 6, 3)
    losses = np.vstack([layer + 1, layer, layer + 2])
    assert sorted(best(losses, 6)) == [6, 7, 8, 9, 10, 11]
    assert sorted(best(losses, 8)[:6]) == [6, 7, 8, 9, 10, 11]
    assert best(losses, 8)[6:] == greedy_subset(layer + 1, 2)
    assert sorted(best(losses, 18)) == sorted(best(losses, 99)) == [*range(18)]
    assert best(losses, 0) == [] == best(np.empty((0, 3)), 4)


def test_the_best_by_one_objective_are_the_first_of_equals():
    assert best(np.array([[3.0], [1.0], [2.0], [1.0], [2.0]]), 3) == [1, 3, 2]


def test_equal_points_are_taken_last_and_unmeasured_ones_never():
    losses = np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [np.nan, 0.0], [np.inf, 0.0]])
    assert set(best(losses, 2)) == {0, 2} and sorted(best(losses, 5)) == [0, 1, 2]
    assert sorted(best(np.zeros((3, 2)), 2)) == [0, 1]
