"""Weight quantisers: error bound, number of levels, gradient, and the papers' own values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.techniques import QUANTISERS, quantize
from harness.techniques.order import percentile

SETTINGS = settings(max_examples=60, deadline=None)
EACH: dict[str, Callable[..., Any]] = {
    "uniform": lambda w, bits: quantize.uniform(w, {}, bits=t(bits), percentile=t(99.9)),
    "percentile": lambda w, bits: quantize.uniform(w, {}, bits=t(bits), range="percentile", percentile=t(90)),
    "mse": lambda w, bits: quantize.uniform(w, {}, bits=t(bits), range="mse", percentile=t(90)),
    "lsq": lambda w, bits: quantize.lsq(w, quantize.lsq_begin(w, bits=t(bits)), bits=t(bits)),
    "dorefa": lambda w, bits: quantize.dorefa(w, {}, bits=t(bits)),
    "standardised": lambda w, bits: quantize.standardised(w, {}, bits=t(bits), range=t(2.5)),
    "power_of_two": lambda w, bits: quantize.power_of_two(w, {}, bits=t(bits)),
}


def t(value: float | torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def weights(seed: int, mean: float = 0.0) -> torch.Tensor:
    return mean + torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bits_of(method: str) -> list[int]:
    declared = QUANTISERS.get(method, QUANTISERS["uniform"]).params["bits"].choices
    return [b for b in declared if b < 32]


def test_every_registered_quantiser_is_tested_here() -> None:
    tested = {QUANTISERS[name].target for name in EACH if name in QUANTISERS}
    assert {method.target for method in QUANTISERS.values()} == tested


@pytest.mark.parametrize(("method", "bits"), [(m, b) for m in EACH for b in bits_of(m)])
@pytest.mark.parametrize("mean", [0.0, 0.4])
def test_values_are_few_bytes_times_a_scale(method: str, bits: int, mean: float) -> None:
    for seed in range(5):
        w = weights(seed, mean)
        found = EACH[method](w, bits)
        q = found.integers
        assert torch.equal(q, q.round()) and q.abs().max() <= 127
        assert len(q.unique()) <= 2**bits
        assert found.scale.shape == (5, 1, 1, 1) and bool((found.scale > 0).all())
        torch.testing.assert_close(found.weight.detach(), q * found.scale, rtol=1e-12, atol=1e-15)


@SETTINGS
@given(st.integers(0, 1000), st.integers(2, 8))
def test_uniform_is_within_half_a_step_and_uses_its_range(seed: int, bits: int) -> None:
    w = weights(seed)
    found = EACH["uniform"](w, bits)
    assert bool(((found.weight - w).abs() <= found.scale / 2 * (1 + 1e-9)).all())
    assert found.integers.abs().max() == 2 ** (bits - 1) - 1


@SETTINGS
@given(st.integers(0, 1000))
def test_one_bit_is_the_sign_and_the_mean_and_no_other_scale_is_better(seed: int) -> None:
    """Rastegari et al. 2016, section 3.1: alpha* = mean|w| minimises the squared error."""
    w = weights(seed)
    found = EACH["uniform"](w, 1)
    assert set(found.integers.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(found.scale.flatten(), w.abs().flatten(1).mean(1))
    error = (found.weight - w).square().sum()
    for other in (0.97, 1.03):
        assert (found.integers * found.scale * other - w).square().sum() > error


@SETTINGS
@given(st.integers(0, 1000), st.integers(2, 8))
def test_mse_is_never_worse_than_max_and_percentile_is_numpys(seed: int, bits: int) -> None:
    w = weights(seed)
    assert (EACH["mse"](w, bits).weight - w).square().sum() <= (EACH["uniform"](w, bits).weight - w).square().sum()
    rows = np.percentile(w.abs().flatten(1).numpy(), 90, axis=1)
    top = 2 ** (bits - 1) - 1
    np.testing.assert_allclose(EACH["percentile"](w, bits).scale.flatten().numpy() * top, rows, rtol=1e-12)


@SETTINGS
@given(st.integers(0, 1000), st.floats(0, 1), st.integers(1, 12))
def test_percentile_is_torchs(seed: int, share: float, count: int) -> None:
    rows = torch.randn(3, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    want = torch.quantile(rows[:, :count], share, dim=1)
    padded = torch.full_like(rows, float("inf"))
    padded[:, :count] = rows[:, :count].sort(dim=1)[0]
    torch.testing.assert_close(percentile(padded, t(share), t(count)), want, rtol=1e-9, atol=1e-12)


def test_scale_is_per_output_channel() -> None:
    w = weights(0)
    w[2] *= 1000
    before, after = EACH["uniform"](weights(0), 4).scale, EACH["uniform"](w, 4).scale
    assert torch.equal(before[[0, 1, 3, 4]], after[[0, 1, 3, 4]])


@pytest.mark.parametrize("method", ["uniform", "mse", "standardised", "power_of_two"])
def test_gradient_passes_straight_through(method: str) -> None:
    w, upstream = weights(2).requires_grad_(), weights(3)
    (EACH[method](w, 3).weight * upstream).sum().backward()
    assert w.grad is not None and torch.equal(w.grad, upstream)


@pytest.mark.parametrize("method", sorted(set(EACH) - {"dorefa", "standardised"}))  # whose grids have no zero
def test_a_zero_channel_stays_zero(method: str) -> None:
    w = weights(4)
    w[0] = 0
    assert torch.equal(EACH[method](w, 4).weight[0], w[0])


@pytest.mark.parametrize("method", sorted(EACH))
def test_all_zeros_are_finite(method: str) -> None:
    found = EACH[method](torch.zeros(2, 3, dtype=torch.float64), 4)
    assert bool(torch.isfinite(found.weight).all()) and bool(torch.isfinite(found.scale).all())


def test_lsq_gradient_of_the_step_is_the_papers() -> None:
    """Esser et al. 2020, equation 3: -v/s + round(v/s) inside, -Q or Q outside, times 1/sqrt(n Q)."""
    w = torch.tensor([[0.26, -0.9, 0.04, 0.33]], dtype=torch.float64, requires_grad=True)
    step = t(0.1).requires_grad_()
    top = 3.0  # of 3 bits
    quantize.lsq(w, {"step": step}, bits=t(3)).weight.sum().backward()
    inside = [-2.6 + 3, -top, -0.4 + 0, top]  # -0.9 and 0.33 lie outside +-0.3
    assert step.grad is not None and w.grad is not None
    assert step.grad.item() == pytest.approx(sum(inside) / np.sqrt(4 * top), rel=1e-9)
    assert w.grad.tolist() == [[1.0, 0.0, 1.0, 0.0]]


def test_lsq_begins_at_the_papers_step() -> None:
    w = torch.tensor([[1.0, -3.0]], dtype=torch.float64)
    assert quantize.lsq_begin(w, bits=t(4))["step"].item() == pytest.approx(2 * 2 / np.sqrt(7))


@SETTINGS
@given(st.integers(0, 1000), st.integers(2, 7))
def test_dorefa_is_the_papers_formula(seed: int, bits: int) -> None:
    """Zhou et al. 2016, section 2.3: 2 * quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1."""
    w = weights(seed)
    squashed = torch.tanh(w)
    n = 2**bits - 1
    want = 2 * torch.round(n * (squashed / (2 * squashed.abs().max()) + 0.5)) / n - 1
    got = quantize.dorefa(w, {}, bits=t(bits), scaled=False).weight
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    scaled = quantize.dorefa(w, {}, bits=t(bits)).weight
    torch.testing.assert_close(scaled, want * squashed.abs().max(), rtol=1e-9, atol=1e-12)


def test_dorefa_gradient_goes_through_tanh() -> None:
    w = weights(3).requires_grad_()
    quantize.dorefa(w, {}, bits=t(3), scaled=False).weight.sum().backward()
    slope = 1 - torch.tanh(w.detach()).square()
    assert w.grad is not None
    torch.testing.assert_close(w.grad, slope / torch.tanh(w.detach()).abs().max())


@SETTINGS
@given(st.integers(0, 1000), st.integers(2, 7), st.floats(-1, 1), st.floats(1, 4))
def test_standardised_is_invertible_within_a_step(seed: int, bits: int, mean: float, reach: float) -> None:
    w = weights(seed, mean)
    found = quantize.standardised(w, {}, bits=t(bits), range=t(reach))
    top = 2 ** (bits - 1) - 1
    step = w.std(correction=0) * reach / top
    finer = (step / found.scale.flatten()).round()
    assert bool((finer == finer[0]).all()) and finer[0] >= 1
    torch.testing.assert_close(found.scale.flatten(), (step / finer))
    if (found.integers.abs() == 127).any():
        return  # the layer lies so far from zero that its ends are clamped to bytes
    inside = ((w - w.mean()) / w.std(correction=0)).abs() <= reach
    bound = step / 2 + step / (2 * finer[0])
    assert bool(((found.weight - w).abs()[inside] <= bound * (1 + 1e-9)).all())


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_standardised_keeps_the_mean(bits: int) -> None:
    """An offset in whole steps moved all weights together by up to half a step: networks fell from
    78 % to 23 % accuracy as the mean passed the middle between two of them."""
    w = weights(3, 0.0)
    spread = w.std(correction=0)
    for mean in torch.linspace(-0.5, 0.5, 41, dtype=torch.float64) * spread:
        moved = w - w.mean() + mean
        found = quantize.standardised(moved, {}, bits=t(bits), range=t(2.0))
        without = quantize.standardised(moved - mean, {}, bits=t(bits), range=t(2.0))
        shift = (found.weight - without.weight).mean() - mean
        assert shift.abs() <= 0.04 * spread


@SETTINGS
@given(st.integers(0, 1000), st.integers(2, 4))
def test_powers_of_two(seed: int, bits: int) -> None:
    w = weights(seed)
    found = quantize.power_of_two(w, {}, bits=t(bits))
    sizes = found.integers[found.integers != 0].abs()
    assert torch.equal(torch.log2(sizes), torch.log2(sizes).round()) and sizes.max() == 2 ** (2 ** (bits - 1) - 2)
    ratio = found.weight[found.integers != 0] / w[found.integers != 0]
    assert bool(((ratio >= 2**-0.5 - 1e-9) & (ratio <= 2 + 1e-9)).all())  # half an octave; from s/2 up to s


def test_vmap_equals_loop() -> None:
    w = torch.stack([weights(5), weights(6)])
    bits = torch.tensor([2.0, 4.0], dtype=torch.float64)
    for call in EACH.values():
        together = torch.vmap(call)(w, bits)
        for i in range(2):
            for a, b in zip(together, call(w[i], bits[i]), strict=True):
                torch.testing.assert_close(a[i], b, rtol=1e-12, atol=1e-14)
