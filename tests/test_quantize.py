"""Quantisers: error bound, number of levels, identity when off, straight-through gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.techniques import quantize

SETTINGS = settings(max_examples=60, deadline=None)
DONE = torch.tensor(1.0, dtype=torch.float64)


def t(value: float) -> torch.Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


def weights(seed: int) -> torch.Tensor:
    return torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@SETTINGS
@given(st.integers(0, 1000), st.integers(2, 8))
def test_error_is_at_most_half_a_step_and_levels_are_few(seed, bits):
    w = weights(seed)
    q, scale = quantize.integers(w, t(bits))
    fake = quantize.uniform(w, DONE, bits=t(bits), start=t(0))
    top = 2 ** (bits - 1) - 1
    assert bool(((fake - w).abs() <= scale / 2 * (1 + 1e-9)).all())
    assert q.abs().max() == top and torch.equal(q, q.round())
    for channel in q:
        assert len(channel.unique()) <= 2 * top + 1
    torch.testing.assert_close(fake, q * scale, rtol=1e-12, atol=0)


def test_scale_is_per_output_channel():
    w = weights(0)
    w[2] *= 1000
    _, before = quantize.integers(weights(0), t(4))
    _, after = quantize.integers(w, t(4))
    assert torch.equal(before[[0, 1, 3, 4]], after[[0, 1, 3, 4]])


def test_off_is_the_identity_and_start_waits():
    w = weights(1).float()
    assert torch.equal(quantize.uniform(w, torch.tensor(1.0), bits=torch.tensor(32.0), start=torch.tensor(0.0)), w)
    assert torch.equal(quantize.uniform(w, torch.tensor(0.4), bits=torch.tensor(2.0), start=torch.tensor(0.5)), w)


def test_gradient_passes_straight_through():
    w = weights(2).requires_grad_()
    upstream = weights(3)
    (quantize.uniform(w, DONE, bits=t(3), start=t(0)) * upstream).sum().backward()
    assert torch.equal(w.grad, upstream)


def test_a_zero_channel_stays_zero():
    w = weights(4)
    w[0] = 0
    assert torch.equal(quantize.uniform(w, DONE, bits=t(2), start=t(0))[0], w[0])


@SETTINGS
@given(st.floats(-10, 10), st.floats(0, 10))
def test_byte_range_holds_zero_and_bounds_the_error(low, width):
    scale, zero = quantize.byte_range(t(low), t(low + width))
    x = torch.linspace(min(low, 0), max(low + width, 0), 101, dtype=torch.float64)
    fake = quantize.activation(x, scale, zero)
    assert bool(((fake - x).abs() <= scale * (1 + 1e-9)).all())  # s/2, and s/2 more for the rounded zero point
    assert quantize.activation(t(0), scale, zero) == 0
    assert 0 <= zero <= 255 and zero == zero.round()


def test_activation_clips_outside_and_stops_the_gradient_there():
    x = torch.tensor([-5.0, 0.5, 5.0], dtype=torch.float64, requires_grad=True)
    y = quantize.activation(x, t(1 / 255), t(0))
    y.sum().backward()
    assert y[0].item() == 0 and y[2].item() == pytest.approx(1.0)
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


def test_vmap_equals_loop():
    w = torch.stack([weights(5), weights(6)])
    bits = torch.tensor([2.0, 32.0], dtype=torch.float64)
    together = torch.vmap(lambda v, b: quantize.uniform(v, DONE, bits=b, start=t(0)))(w, bits)
    for i in range(2):
        assert torch.equal(together[i], quantize.uniform(w[i], DONE, bits=bits[i], start=t(0)))
