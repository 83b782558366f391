"""Activations as few integers: zero is exact, the error is bounded, gradients are those of the papers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.techniques import activations

SETTINGS = settings(max_examples=60, deadline=None)


def t(value: float) -> torch.Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


@SETTINGS
@given(st.floats(-10, 10), st.floats(0, 10), st.integers(2, 8))
def test_a_range_holds_zero_and_bounds_the_error(low, width, bits):
    top = t(2**bits - 1)
    scale, zero = activations.integer_range(t(low), t(low + width), top)
    x = torch.linspace(min(low, 0), max(low + width, 0), 101, dtype=torch.float64)
    fake = activations.rounded(x, scale, zero, top)
    assert bool(((fake - x).abs() <= scale * (1 + 1e-9)).all())  # s/2, and s/2 more for the rounded zero point
    assert activations.rounded(t(0), scale, zero, top) == 0
    assert 0 <= zero <= top and zero == zero.round()
    assert len(fake.round(decimals=9).unique()) <= 2**bits


def test_what_lies_outside_is_clipped_and_has_no_gradient():
    x = torch.tensor([-5.0, 0.5, 5.0], dtype=torch.float64, requires_grad=True)
    y = activations.rounded(x, t(1 / 255), t(0), t(255))
    y.sum().backward()
    assert y[0].item() == 0 and y[2].item() == pytest.approx(1.0)
    assert x.grad is not None and x.grad.tolist() == [0.0, 1.0, 0.0]


def test_the_gradient_of_pacts_alpha_counts_what_it_clips():
    """Choi et al. 2018, equation 3: 1 where x >= alpha, 0 below."""
    alpha = t(2.0).requires_grad_()
    x = torch.tensor([0.3, 1.9, 2.5, 7.0, -1.0], dtype=torch.float64)
    activations.rounded(x, alpha / 15, t(0), t(15)).sum().backward()
    assert alpha.grad is not None and alpha.grad.item() == pytest.approx(2.0)
