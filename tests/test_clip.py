"""Clipping: bounds, direction, idempotence, off values; equal to torch where torch is exact."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.techniques import CLIPS, clip, quantize

SETTINGS = settings(max_examples=60, deadline=None)


def gradients(seed: int, scale: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": scale * torch.randn(3, 4, generator=generator, dtype=torch.float64),
        "b": scale * torch.randn(5, generator=generator, dtype=torch.float64),
    }


def vector(seed: int, scale: float) -> torch.Tensor:
    """A flat gradient."""
    return torch.cat([g.flatten() for g in gradients(seed, scale).values()])


def t(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def memory(kind: str) -> dict[str, torch.Tensor]:
    """What a method carries into its first step."""
    return {
        name: torch.full((length,) if length else (), first, dtype=torch.float64)
        for name, (length, first) in CLIPS[kind].carries.items()
    }


@SETTINGS
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_norm_is_bounded_keeps_direction_and_is_idempotent(seed, scale, threshold):
    g = vector(seed, scale)
    out, clipped, _ = clip.norm(g, g, {}, threshold=t(threshold))
    before, after = torch.linalg.vector_norm(g), torch.linalg.vector_norm(out)
    torch.testing.assert_close(after, torch.minimum(before, t(threshold)), rtol=1e-12, atol=0)
    assert bool(clipped) == bool(before > threshold)
    torch.testing.assert_close(out, g * (after / before))
    again, _, _ = clip.norm(out, g, {}, threshold=t(threshold))
    torch.testing.assert_close(again, out)


@SETTINGS
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_value_clamps_each_element(seed, threshold):
    g = vector(seed, 10.0)
    out, clipped, _ = clip.value(g, g, {}, threshold=t(threshold))
    torch.testing.assert_close(out, g.clamp(-threshold, threshold), rtol=0, atol=0)
    assert bool(clipped) == bool((g.abs() > threshold).any())


@pytest.mark.parametrize("kind", CLIPS)
def test_every_method_can_be_off(kind):
    """At the values that it declares, else at an infinite threshold: the contract of ``techniques/clip.py``."""
    method = CLIPS[kind]
    off = {"threshold": math.inf} if method.off is None else method.off
    options = {name: t(off.get(name, param.default)) for name, param in method.params.items()}
    assert set(off) <= set(options)
    made = vector if method.on == "gradient" else gradients
    g = made(0, 1.0)
    out, clipped, _ = method.load()(g, made(1, 1.0), memory(kind), **options)
    assert not bool(clipped)
    torch.testing.assert_close(out, g, rtol=0, atol=0)


def test_zero_gradient_stays_zero():
    zero = torch.zeros(3, dtype=torch.float64)
    out, clipped, _ = clip.norm(zero, zero, {}, threshold=t(1.0))
    assert torch.equal(out, zero) and not bool(clipped)


def test_norm_is_torchs_without_its_epsilon():
    g = vector(3, 5.0)
    leaf = torch.zeros_like(g).requires_grad_()
    leaf.grad = g.clone()
    torch.nn.utils.clip_grad_norm_([leaf], 1.0)
    out, _, _ = clip.norm(g, g, {}, threshold=t(1.0))
    torch.testing.assert_close(leaf.grad, out, rtol=2e-6, atol=0)
    torch.testing.assert_close(torch.linalg.vector_norm(out), t(1.0), rtol=1e-12, atol=0)


def test_none_changes_nothing():
    g = vector(1, 1.0)
    out, clipped, _ = clip.none(g, g, {})
    assert out is g and not bool(clipped)


def test_agc_bounds_every_unit_and_leaves_small_ones_alone():
    g = gradients(4, 3.0)
    weights = {"a": torch.tensor([[3.0, 4, 0, 0], [0, 0, 0, 0], [1e3, 0, 0, 0]], dtype=torch.float64), "b": g["b"]}
    out, clipped, _ = clip.agc(g, weights, {}, threshold=t(0.1), least=t(1e-3))
    assert bool(clipped)
    sizes = out["a"].norm(dim=1)
    torch.testing.assert_close(sizes[0], t(0.1 * 5))  # threshold times the norm of (3, 4, 0, 0)
    torch.testing.assert_close(sizes[1], t(0.1 * 1e-3))  # a unit at zero may move by ``least``
    assert torch.equal(out["a"][2], g["a"][2])
    torch.testing.assert_close(out["b"], 0.1 * g["b"])  # a bias is one unit; its own gradient here
    torch.testing.assert_close(out["a"][0] / sizes[0], g["a"][0] / g["a"][0].norm())


@SETTINGS
@given(st.integers(0, 1000), st.floats(1e-3, 10))
def test_agc_is_idempotent(seed, threshold):
    g, weights = gradients(seed, 5.0), gradients(seed + 1, 1.0)
    once, _, _ = clip.agc(g, weights, {}, threshold=t(threshold), least=t(1e-3))
    twice, _, _ = clip.agc(once, weights, {}, threshold=t(threshold), least=t(1e-3))
    for name in g:
        torch.testing.assert_close(twice[name], once[name])


@pytest.mark.parametrize("share", [0.0, 10.0, 37.5, 100.0])
def test_autoclip_clips_to_the_percentile_of_all_norms_so_far(share):
    """Seetharaman et al. 2020, section 3: numpy.percentile of the history, this step's norm included."""
    carried, norms = memory("auto"), []
    for step in range(30):
        g = vector(step, 1.0 + step % 7)
        norms.append(torch.linalg.vector_norm(g).item())
        out, clipped, carried = clip.auto(g, g, carried, percentile=t(share))
        threshold = np.percentile(norms, share)
        assert torch.linalg.vector_norm(out).item() == pytest.approx(min(threshold, norms[-1]), rel=1e-12)
        assert bool(clipped) == (norms[-1] > threshold)


def test_autoclip_forgets_the_oldest_norm_when_its_memory_is_full():
    carried = {"norms": torch.full((4,), math.inf, dtype=torch.float64), "seen": t(0.0)}
    for size in (100.0, 1, 2, 3, 4):
        _, _, carried = clip.auto(t(size).reshape(1), t(0).reshape(1), carried, percentile=t(100.0))
    assert sorted(carried["norms"].tolist()) == [1, 2, 3, 4]


@SETTINGS
@given(st.integers(0, 1000), st.floats(1e-3, 3))
def test_a_weight_range_bounds_weights_and_so_the_quantizers_step(seed, threshold):
    weights = gradients(seed, 2.0)
    kept, clipped, _ = clip.weight_range(weights, weights, {}, threshold=t(threshold))
    assert all(bool((w.abs() <= threshold).all()) for w in kept.values())
    assert bool(clipped) == any(bool((w.abs() > threshold).any()) for w in weights.values())
    scale = quantize.uniform(kept["a"], None, {}, bits=t(4), percentile=t(100)).scale
    assert bool((scale <= threshold / 7 * (1 + 1e-12)).all())
