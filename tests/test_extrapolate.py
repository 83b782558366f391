"""The Gaussian process behind `dominated`: closed forms against the long way round, and what it can tell."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.search.dominated import DominatedConfig
from harness.search.extrapolate import NOISES, WIDTHS_U, Shape, choose, fit, kernel, logit, quantile
from harness.search.forecast import ForecastConfig


def drawn(seed: int, n: int, d: int, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, 1 + d) and outputs that depend on z, on a parameter, and on both together."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal(1.0, 1.0, n), rng.random((n, d))])
    slow = x[:, 1] if d else np.zeros(n)
    return x, x[:, 0] * (1 - 0.5 * slow) + 2 * slow + rng.normal(0, noise, n)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(0, 4), st.sampled_from(WIDTHS_U))
def test_the_closed_form_leaves_one_out(seed, n, d, width):
    x, y = drawn(seed, n, d)
    found = fit(x, y, Shape(width, 0.3))
    covariances = kernel(x, x, width, x[:, 0].mean())
    for i in range(n):
        rest = np.arange(n) != i
        weights = np.linalg.solve(covariances[np.ix_(rest, rest)] + 0.3 * np.eye(n - 1), y[rest] - y.mean())
        assert found.expected[i] == pytest.approx(y.mean() + covariances[i, rest] @ weights, abs=1e-6)
        assert found.residuals[i] == pytest.approx(y[i] - found.expected[i], abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(0, 4))
def test_the_kernel_is_symmetric_and_positive(seed, n, d):
    x, _ = drawn(seed, n, d)
    found = kernel(x, x, 0.5, 0.0)
    assert np.allclose(found, found.T) and np.linalg.eigvalsh(found).min() > -1e-8


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.integers(3, 20), st.floats(0.1, 10.0))
def test_the_shape_is_the_likeliest_whatever_the_scale(seed, n, scale):
    x, y = drawn(seed, n, 3)

    def likelihood(shape: Shape) -> float:
        """Logarithm of the normal density at the scale that suits it best, but for constants."""
        covariance = kernel(x, x, shape.width, x[:, 0].mean()) + shape.noise * np.eye(n)
        centerd = y - y.mean()
        variance = centerd @ np.linalg.solve(covariance, centerd) / n
        return -n * math.log(variance) - float(np.linalg.slogdet(covariance)[1])

    chosen = choose(x, y)
    assert likelihood(chosen) >= max(likelihood(Shape(w, float(s))) for w in WIDTHS_U for s in NOISES) - 1e-6
    assert choose(x, scale * y) == chosen


def test_a_slow_start_with_a_reason_is_told_from_a_weak_student():
    x, y = drawn(0, 80, 4, 0.05)
    found = fit(x, y, choose(x, y))
    slow, weak = found.at(np.array([[-1.0, 1.0, 0.5, 0.5, 0.5], [-1.0, 0.0, 0.5, 0.5, 0.5]]))
    assert slow == pytest.approx(1.5, abs=0.5) and weak == pytest.approx(-1.0, abs=0.5)
    line = np.column_stack([np.ones(80), x])
    errors = y - line @ np.linalg.lstsq(line, y, rcond=None)[0]
    assert found.residuals.std() < 0.7 * errors.std(), "no line in z and u sees what they do together"


def test_equal_outputs_are_expected_again():
    x, _ = drawn(1, 8, 2)
    found = fit(x, np.full(8, 0.7), choose(x, np.full(8, 0.7)))
    assert found.at(x[:1]) == pytest.approx(0.7) and not found.residuals.any()


def test_accuracies_of_nothing_and_everything_have_a_logit():
    assert logit(0.0, 0.005) == pytest.approx(-logit(1.0, 0.005)) == pytest.approx(math.log(0.005 / 0.995))
    assert logit(0.5, 0.005) == 0.0


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=40),
    st.floats(0.5, 0.99),
)
def test_the_quantile_with_equal_weights_is_the_conformal_one(values, level):
    ordered = sorted(values)
    place = math.ceil(level * (len(values) + 1) - 1e-9)
    wanted = ordered[min(place, len(values)) - 1]
    assert quantile(np.array(values), np.ones((1, len(values))), level) == [wanted]


@pytest.mark.parametrize(("n", "level", "reached"), [(6, 0.85, 6 / 7), (20, 0.987, 20 / 21), (75, 0.987, 75 / 76)])
def test_a_bound_from_few_curves_covers_no_more_than_they_can(n, level, reached):
    """By simulation: how often the next of n + 1 exchangeable residuals lies within the bound of the first n."""
    rng, repeats = np.random.default_rng(n), 20_000
    drawn = rng.normal(size=(repeats, n + 1))
    covered = np.mean([row[n] <= quantile(row[:n], np.ones((1, n)), level)[0] for row in drawn])
    assert covered == pytest.approx(reached, abs=4 * math.sqrt(reached * (1 - reached) / repeats))


def test_the_confidences_of_dominated_hold_from_6_and_from_76_curves_on():
    rule, least = DominatedConfig(), ForecastConfig().least
    assert least == 6 and (least - 1) / least < rule.confidence <= least / (least + 1)
    assert 75 / 76 < rule.second <= 76 / 77
