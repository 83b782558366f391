"""Weight quantizers: error bound, number of levels, gradient, and the papers' own values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.techniques import QUANTIZERS, quantize
from harness.techniques.order import percentile

SETTINGS = settings(max_examples=60, deadline=None)
EACH: dict[str, Callable[..., Any]] = {
    "uniform": lambda w, bits: quantize.uniform(w, None, {}, bits=t(bits), percentile=t(99.9)),
    "percentile": lambda w, bits: quantize.uniform(w, None, {}, bits=t(bits), range="percentile", percentile=t(90)),
    "mse": lambda w, bits: quantize.uniform(w, None, {}, bits=t(bits), range="mse", percentile=t(90)),
    "lsq": lambda w, bits: quantize.lsq(w, None, quantize.lsq_begin(w, None, bits=t(bits)), bits=t(bits)),
    "dorefa": lambda w, bits: quantize.dorefa(w, None, {}, bits=t(bits)),
    "standardized": lambda w, bits: quantize.standardized(w, None, {}, bits=t(bits), range=t(2.5)),
    "power_of_two": lambda w, bits: quantize.power_of_two(w, None, {}, bits=t(bits)),
}


def t(value: float | torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def weights(seed: int, mean: float = 0.0) -> torch.Tensor:
    return mean + torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bits_of(method: str) -> list[int]:
    declared = QUANTIZERS.get(method, QUANTIZERS["uniform"]).params["bits"].choices
    return [b for b in declared if b < 32]


def test_every_registered_quantizer_is_tested_here() -> None:
    tested = {QUANTIZERS[name].target for name in EACH if name in QUANTIZERS}
    assert {method.target for method in QUANTIZERS.values()} == tested


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
    """Rastegari et al. 2016, section 3.1: alpha* = mean|w| minimizes the squared error."""
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


@pytest.mark.parametrize("method", ["uniform", "mse", "standardized", "power_of_two"])
def test_gradient_passes_straight_through(method: str) -> None:
    w, upstream = weights(2).requires_grad_(), weights(3)
    (EACH[method](w, 3).weight * upstream).sum().backward()
    assert w.grad is not None and torch.equal(w.grad, upstream)


@pytest.mark.parametrize("method", sorted(set(EACH) - {"dorefa", "standardized"}))  # whose grids have no zero
def test_a_zero_channel_stays_zero(method: str) -> None:
    w = weights(4)
    w[0] = 0
    assert torch.equal(EACH[method](w, 4).weight[0], w[0])


@pytest.mark.parametrize("method", sorted(EACH))
def test_all_zeros_are_finite(method: str) -> None:
    found = EACH[method](torch.zeros(2, 3, dtype=torch.float64), 4)
    assert bool(torch.isfinite(found.weight).all()) and bool(torch.isfinite(found.scale).all())


def kept_of(w: torch.Tensor, ratio: float) -> torch.Tensor:
    """The mask of the largest weights, and one channel without any."""
    mask = (w.abs() >= w.abs().flatten().quantile(ratio)).to(w.dtype)
    mask[1] = 0
    return mask


def pruned(method: str, w: torch.Tensor, mask: torch.Tensor | None, bits: int | torch.Tensor) -> quantize.Rounded:
    name = method if method in QUANTIZERS else "uniform"
    words = {"range": method} if name != method else {}
    numbers = {"uniform": {"percentile": t(90)}, "standardized": {"range": t(3.0)}}.get(name, {})
    learned = {} if name != "lsq" else quantize.lsq_begin(w if mask is None else w * mask, mask, bits=t(bits))
    return quantize.rounded(QUANTIZERS[name].load(), w, mask, learned, bits=t(bits), **words, **numbers)


@pytest.mark.parametrize(("method", "bits"), [(m, b) for m in EACH for b in bits_of(m)])
@pytest.mark.parametrize("ratio", [0.3, 0.95])
def test_pruned_weights_are_zero_and_have_no_gradient(method: str, bits: int, ratio: float) -> None:
    w = weights(1, 0.1).requires_grad_()
    mask = kept_of(w.detach(), ratio)
    found = pruned(method, w, mask, bits)
    gone = mask == 0
    assert bool((found.integers[gone] == 0).all()) and bool((found.weight[gone] == 0).all())
    assert len(found.integers[~gone].unique()) <= 2**bits and found.integers.abs().max() <= 127
    assert bool(torch.isfinite(found.weight).all()) and bool(torch.isfinite(found.scale).all())
    found.weight.sum().backward()
    assert w.grad is not None and bool((w.grad[gone] == 0).all())


@pytest.mark.parametrize("method", sorted(EACH))
def test_nothing_pruned_is_no_mask(method: str) -> None:
    w = weights(2, 0.2)
    for a, b in zip(pruned(method, w, torch.ones_like(w), 3), pruned(method, w, None, 3), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("method", "bits"), [("uniform", 1), ("dorefa", 1), ("lsq", 1), ("percentile", 4)])
def test_what_a_quantizer_takes_of_the_weights_it_takes_of_the_kept_ones(method: str, bits: int) -> None:
    """One bit: the mean of the kept |w| is the scale of least squared error (Rastegari et al. 2016)."""
    w = weights(3)
    mask = kept_of(w, 0.9)
    scales = pruned(method, w, mask, bits).scale.flatten().numpy()
    top = max(1, 2 ** (bits - 1) - 1)
    for channel in (0, 2, 3, 4) if method in ("uniform", "percentile") else ():
        kept = w[channel][mask[channel] > 0].abs().numpy()
        want = np.percentile(kept, 90) / top if method == "percentile" else kept.mean()
        assert scales[channel] == pytest.approx(want, rel=1e-9)
    if method in ("dorefa", "lsq"):
        np.testing.assert_allclose(scales, w[mask > 0].abs().mean().item(), rtol=1e-9)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_standardized_takes_mean_and_deviation_of_the_kept_weights_at_one_bit_of_all_at_more(bits: int) -> None:
    w = weights(4, 1.0)
    mask = kept_of(w, 0.5)
    counted = w[mask > 0] if bits == 1 else w * mask
    alone = quantize.standardized(counted.reshape(1, -1), None, {}, bits=t(bits), range=t(3.0)).weight.flatten()
    want = alone if bits == 1 else alone[mask.flatten() > 0]
    torch.testing.assert_close(pruned("standardized", w, mask, bits).weight[mask > 0], want)


def test_lsq_begins_at_the_kept_weights_at_one_bit_and_at_all_at_more() -> None:
    w, mask = torch.tensor([[0.0, -3.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert quantize.lsq_begin(w, mask, bits=t(1))["step"].item() == pytest.approx(2.0)
    assert quantize.lsq_begin(w, mask, bits=t(4))["step"].item() == pytest.approx(2 * 1 / np.sqrt(7))


def test_lsq_gradient_of_the_step_is_the_papers() -> None:
    """Esser et al. 2020, equation 3: -v/s + round(v/s) inside, -Q or Q outside, times 1/sqrt(n Q)."""
    w = torch.tensor([[0.26, -0.9, 0.04, 0.33]], dtype=torch.float64, requires_grad=True)
    step = t(0.1).requires_grad_()
    top = 3.0  # of 3 bits
    quantize.lsq(w, None, {"step": step}, bits=t(3)).weight.sum().backward()
    inside = [-2.6 + 3, -top, -0.4 + 0, top]  # -0.9 and 0.33 lie outside +-0.3
    assert step.grad is not None and w.grad is not None
    assert step.grad.item() == pytest.approx(sum(inside) / np.sqrt(4 * top), rel=1e-9)
    assert w.grad.tolist() == [[1.0, 0.0, 1.0, 0.0]]


def test_lsq_begins_at_the_papers_step() -> None:
    w = torch.tensor([[1.0, -3.0]], dtype=torch.float64)
    assert quantize.lsq_begin(w, None, bits=t(4))["step"].item() == pytest.approx(2 * 2 / np.sqrt(7))


@SETTINGS
@given(st.integers(0, 1000), st.integers(2, 7))
def test_dorefa_is_the_papers_formula(seed: int, bits: int) -> None:
    """Zhou et al. 2016, section 2.3: 2 * quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1."""
    w = weights(seed)
    squashed = torch.tanh(w)
    n = 2**bits - 1
    want = 2 * torch.round(n * (squashed / (2 * squashed.abs().max()) + 0.5)) / n - 1
    got = quantize.dorefa(w, None, {}, bits=t(bits), scaled=False).weight
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    scaled = quantize.dorefa(w, None, {}, bits=t(bits)).weight
    torch.testing.assert_close(scaled, want * squashed.abs().max(), rtol=1e-9, atol=1e-12)


def test_dorefa_gradient_goes_through_tanh() -> None:
    w = weights(3).requires_grad_()
    quantize.dorefa(w, None, {}, bits=t(3), scaled=False).weight.sum().backward()
    slope = 1 - torch.tanh(w.detach()).square()
    assert w.grad is not None
    torch.testing.assert_close(w.grad, slope / torch.tanh(w.detach()).abs().max())


@SETTINGS
@given(st.integers(0, 1000), st.integers(2, 8), st.floats(-1000, 1000), st.floats(0.5, 6))
@example(0, 8, 0.3, 3.0)  # the offset does not fit a byte beside 255 levels
@example(0, 2, 400.0, 3.0)  # the mean lies 400 deviations from zero
def test_standardized_is_invertible_within_a_step(seed: int, bits: int, mean: float, reach: float) -> None:
    """Against numpy, from the file's numbers alone: w' = q * t, and t divides the step."""
    w = weights(seed, mean)
    found = quantize.standardized(w, None, {}, bits=t(bits), range=t(reach))
    q, fine = found.integers.numpy(), float(found.scale.flatten()[0])
    assert np.abs(q).max() <= 127 and len(np.unique(q)) <= 2**bits - 1
    sigma, mu, top = float(np.std(w.numpy())), float(np.mean(w.numpy())), 2 ** (bits - 1) - 1
    step = sigma * reach / top
    if top + round(abs(mu) / step) > 127:
        step = (sigma * reach + abs(mu)) / 126
    m = step / fine
    assert m == pytest.approx(round(m), rel=1e-9) and round(m) >= 1
    inside = np.abs(w.numpy() - mu) <= sigma * reach
    assert (np.abs(q * fine - w.numpy())[inside] <= (step / 2 + step / (2 * m)) * (1 + 1e-9)).all()


@SETTINGS
@given(st.integers(0, 1000), st.floats(-2, 2))
def test_three_bits_and_three_deviations_are_the_articles_quantizer(seed: int, mean: float) -> None:
    """Subtract the mean, divide by the deviation, round to whole deviations, undo: up to the rounding of
    the mean, which moves all weights alike, and what lies more than three deviations out."""
    w = weights(seed, mean)
    values = w.numpy()
    z = (values - values.mean()) / values.std()
    article = np.clip(np.round(z), -3, 3) * values.std() + values.mean()
    found = quantize.standardized(w, None, {}, bits=t(3), range=t(3.0))
    apart = found.weight.numpy() - article
    assert np.ptp(apart) <= 1e-9 * max(1.0, abs(mean)), "differences between weights are the article's"
    assert np.abs(apart).max() <= found.scale.max() / 2 * (1 + 1e-9)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_standardized_keeps_the_mean(bits: int) -> None:
    """An offset in whole steps moved all weights together by up to half a step: networks fell from
    78 % to 23 % accuracy as the mean passed the middle between two of them."""
    w = weights(3, 0.0)
    spread = w.std(correction=0)
    for mean in torch.linspace(-0.5, 0.5, 41, dtype=torch.float64) * spread:
        moved = w - w.mean() + mean
        found = quantize.standardized(moved, None, {}, bits=t(bits), range=t(2.0))
        without = quantize.standardized(moved - mean, None, {}, bits=t(bits), range=t(2.0))
        shift = (found.weight - without.weight).mean() - mean
        assert shift.abs() <= 0.04 * spread


@SETTINGS
@given(st.integers(0, 1000), st.integers(2, 4))
def test_powers_of_two(seed: int, bits: int) -> None:
    w = weights(seed)
    found = quantize.power_of_two(w, None, {}, bits=t(bits))
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


@pytest.mark.parametrize("method", sorted(EACH))
def test_vmap_equals_loop_with_masks(method: str) -> None:
    w = torch.stack([weights(5), weights(6)])
    masks = torch.stack([kept_of(w[0], 0.5), kept_of(w[1], 0.9)])
    bits = torch.tensor([2.0, 4.0], dtype=torch.float64)
    together = torch.vmap(lambda *given: pruned(method, *given))(w, masks, bits)
    for i in range(2):
        for a, b in zip(together, pruned(method, w[i], masks[i], bits[i]), strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-12, atol=1e-14)
