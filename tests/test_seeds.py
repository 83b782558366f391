"""The scatter of trainings over seeds: special functions and formulas against scipy, coverage by simulation."""

import math

import numpy as np
import pytest
from scipy import special, stats

from harness.stats.intervals import t_95
from harness.verify.seeds import half_widths, moderated

N = 359  # test samples of the digits


def test_variances_are_smyths():
    """Smyth 2004, section 6.2, with scipy's functions and numpy's line: d0 small enough to be estimated."""
    rng = np.random.default_rng(3)
    share = rng.uniform(0.5, 0.95, 60)
    values = share[:, None] + rng.normal(0, 1, (60, 6)) * np.exp(rng.normal(-4, 1.2, 60))[:, None]
    variance, degrees = moderated(values, 1e6)
    own, d = values.var(axis=1, ddof=1), 5
    mean = values.mean(axis=1)
    x, z = np.log(mean * (1 - mean)), np.log(own)
    level = np.polyval(np.polyfit(x, z, 1), x)
    scatter = np.square(z - level).sum() / 58 - special.polygamma(1, d / 2)
    d0 = degrees - d
    assert special.polygamma(1, d0 / 2) == pytest.approx(scatter, rel=1e-4) and d0 < 5
    s0 = np.exp(level - special.digamma(d / 2) + math.log(d / 2) + special.digamma(d0 / 2) - math.log(d0 / 2))
    assert variance == pytest.approx((d0 * s0 + d * own) / (d0 + d), rel=1e-4)


def confirmations(rng, k, uneven, points=30):
    """Two confirmations of points on the same samples: each sample has its difficulty, each point its strength and
    how far that moves with the seed."""
    difficulty, strength = rng.normal(0, 3, N), rng.uniform(1, 9, points)
    moves = 0.25 * np.exp(rng.normal(0, uneven, points))

    def draw():
        strengths = strength[:, None] + rng.normal(size=(points, k)) * moves[:, None]
        right = special.expit(strengths[:, :, None] - difficulty)
        return (rng.random(right.shape) < right).mean(axis=2)

    return draw(), draw()


@pytest.mark.parametrize("uneven", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("k", [3, 5])
def test_another_confirmation_lands_inside_as_often_as_said(k, uneven):
    """In every quarter of the accuracies. One deviation for all: 0.78 to 0.88 of the weakest, 1.00 of the best."""
    rng, inside, accuracy, pooled = np.random.default_rng(k), [], [], []
    for _ in range(150):
        first, second = confirmations(rng, k, uneven)
        apart = np.abs(first.mean(axis=1) - second.mean(axis=1))
        inside.append(apart <= half_widths(first, N))
        pooled.append(apart <= 1.96 * math.sqrt(first.var(axis=1, ddof=1).mean() * 2 / k))
        accuracy.append((first.mean(axis=1) + second.mean(axis=1)) / 2)
    order = np.argsort(np.concatenate(accuracy))
    quarters = np.array_split(np.concatenate(inside)[order], 4)
    three = 3 * math.sqrt(0.95 * 0.05 / len(quarters[0]))
    for quarter in quarters:
        assert abs(quarter.mean() - 0.95) <= three + 0.005
    of_one_deviation = [q.mean() for q in np.array_split(np.concatenate(pooled)[order], 4)]
    assert of_one_deviation[0] < 0.9 and of_one_deviation[3] > 0.995, "the simulation can tell them apart"


def test_where_points_move_less_the_interval_is_narrower():
    rng = np.random.default_rng(0)
    halves, apart, means = [], [], []
    for _ in range(100):
        first, second = confirmations(rng, 3, 0.5)
        halves.append(half_widths(first, N))
        means.append(first.mean(axis=1))
        apart.append(first.mean(axis=1) - second.mean(axis=1))
    best = np.concatenate(means) > 0.95
    wanted = 1.96 * np.concatenate(apart)[best].std()
    assert np.concatenate(halves)[best].mean() == pytest.approx(wanted, rel=0.3)


def test_equal_trainings_still_leave_one_sample_of_doubt():
    found = half_widths(np.full((4, 3), 0.9), 100)
    assert found == pytest.approx(np.full(4, t_95(7) * 0.01 * math.sqrt(2 / 3)))


def test_one_training_has_a_proportions_interval():
    wanted = stats.norm.ppf(0.975) * math.sqrt(2 * 0.9 * 0.1 / 100)
    assert half_widths(np.array([[0.9]]), 100) == pytest.approx([wanted], rel=1e-3)
    assert np.isfinite(half_widths(np.array([[1.0], [0.0]]), 100)).all()
