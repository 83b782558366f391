"""Clipping: bounds, direction, idempotence, off values; equal to torch where torch is exact."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.techniques import clip

SETTINGS = settings(max_examples=60, deadline=None)


def gradients(seed: int, scale: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": scale * torch.randn(3, 4, generator=generator, dtype=torch.float64),
        "b": scale * torch.randn(5, generator=generator, dtype=torch.float64),
    }


def t(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@SETTINGS
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_norm_is_bounded_keeps_direction_and_is_idempotent(seed, scale, threshold):
    g = gradients(seed, scale)
    out, clipped = clip.norm(g, threshold=t(threshold))
    before, after = clip.global_norm(g), clip.global_norm(out)
    assert after <= threshold * (1 + 1e-12) or torch.equal(after, before)
    assert bool(clipped) == bool(before > threshold)
    ratio = after / before
    for name in g:
        torch.testing.assert_close(out[name], g[name] * ratio)
    again, _ = clip.norm(out, threshold=t(threshold))
    for name in g:
        torch.testing.assert_close(again[name], out[name])


@SETTINGS
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_value_clamps_each_element(seed, threshold):
    g = gradients(seed, 10.0)
    out, clipped = clip.value(g, threshold=t(threshold))
    for name in g:
        torch.testing.assert_close(out[name], g[name].clamp(-threshold, threshold), rtol=0, atol=0)
    assert bool(clipped) == any(bool((v.abs() > threshold).any()) for v in g.values())


@pytest.mark.parametrize("method", [clip.norm, clip.value])
def test_infinite_threshold_is_off(method):
    g = gradients(0, 1.0)
    out, clipped = method(g, threshold=t(math.inf))
    assert not bool(clipped)
    assert all(torch.equal(out[name], g[name]) for name in g)


def test_zero_gradient_stays_zero():
    zero = {"a": torch.zeros(3, dtype=torch.float64)}
    out, clipped = clip.norm(zero, threshold=t(1.0))
    assert torch.equal(out["a"], zero["a"]) and not bool(clipped)


def test_norm_is_torchs_without_its_epsilon():
    g = gradients(3, 5.0)
    leaves = [torch.zeros_like(v).requires_grad_() for v in g.values()]
    for leaf, v in zip(leaves, g.values(), strict=True):
        leaf.grad = v.clone()
    torch.nn.utils.clip_grad_norm_(leaves, 1.0)
    out, _ = clip.norm(g, threshold=t(1.0))
    for leaf, v in zip(leaves, out.values(), strict=True):
        torch.testing.assert_close(leaf.grad, v, rtol=2e-6, atol=0)
    torch.testing.assert_close(clip.global_norm(out), t(1.0), rtol=1e-12, atol=0)


def test_none_changes_nothing():
    g = gradients(1, 1.0)
    out, clipped = clip.none(g)
    assert out is g and not bool(clipped)
