"""Pruning masks: exact counts, nesting, equivariance, the published schedule."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.techniques import prune

SETTINGS = settings(max_examples=80, deadline=None)


def t(value: float) -> torch.Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


def weight_mask(values, ratio, progress=1.0, start=0.0, end=1.0):
    return prune.weight(values, t(progress), t(0), ratio=t(ratio), start=t(start), end=t(end))


@SETTINGS
@given(st.integers(1, 400), st.floats(0, 0.99), st.integers(0, 100))
def test_weight_removes_exactly_the_smallest(n, ratio, seed):
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = weight_mask(values, ratio)
    removed = int(torch.round(t(ratio) * n))
    assert int((~mask).sum()) == removed
    if 0 < removed < n:
        assert values[~mask].abs().max() <= values[mask].abs().min()


@SETTINGS
@given(st.floats(0, 0.99), st.floats(0, 0.99), st.integers(0, 100))
def test_masks_are_nested_and_permutation_equivariant(a, b, seed):
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(50, generator=g, dtype=torch.float64)
    low, high = sorted((a, b))
    assert bool((weight_mask(values, low) | ~weight_mask(values, high)).all())
    order = torch.randperm(50, generator=g)
    assert torch.equal(weight_mask(values[order], a), weight_mask(values, a)[order])


def test_ties_give_exact_counts():
    assert int(weight_mask(torch.ones(10, dtype=torch.float64), 0.5).sum()) == 5


@pytest.mark.parametrize(
    ("progress", "share"), [(0.0, 0.0), (0.1, 0.0), (0.35, 0.8 * (1 - 0.5**3)), (0.6, 0.8), (1.0, 0.8)]
)
def test_schedule_is_zhu_and_gupta_equation_1(progress, share):
    values = torch.arange(1, 1001, dtype=torch.float64)
    mask = weight_mask(values, 0.8, progress, start=0.1, end=0.6)
    assert int((~mask).sum()) == round(share * 1000)


def test_equal_start_and_end_is_one_shot():
    values = torch.arange(1, 11, dtype=torch.float64)
    assert int(weight_mask(values, 0.5, 0.29, start=0.3, end=0.3).sum()) == 10
    assert int(weight_mask(values, 0.5, 0.3, start=0.3, end=0.3).sum()) == 5


@SETTINGS
@given(st.integers(1, 64), st.floats(0, 0.999), st.sampled_from([1, 4, 8]), st.integers(0, 50))
def test_channel_keeps_rounded_counts_and_the_largest(channels, ratio, block, seed):
    scores = torch.rand(channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = prune.channel(scores, t(1), t(channels), ratio=t(ratio), at=t(0.3), end=t(0), round_to=t(block))
    kept = int(mask.sum())
    assert 1 <= kept <= channels
    assert kept == channels or kept % block == 0
    assert kept >= min(channels, round((1 - ratio) * channels) - 1)
    if kept < channels:
        assert scores[mask].min() >= scores[~mask].max()


def test_channel_waits_for_its_time_and_zero_is_off():
    scores = torch.arange(8, dtype=torch.float64)
    early = prune.channel(scores, t(0.2), t(8), ratio=t(0.5), at=t(0.25), end=t(0), round_to=t(1))
    off = prune.channel(scores, t(1.0), t(8), ratio=t(0.0), at=t(0.25), end=t(0), round_to=t(1))
    assert bool(early.all()) and bool(off.all())


def test_vmap_equals_loop():
    values = torch.randn(3, 40, dtype=torch.float64)
    ratios = torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64)
    together = torch.vmap(lambda v, r: prune.weight(v, t(1), t(0), ratio=r, start=t(0), end=t(0.5)))(values, ratios)
    for i in range(3):
        assert torch.equal(together[i], prune.weight(values[i], t(1), t(0), ratio=ratios[i], start=t(0), end=t(0.5)))


@pytest.mark.parametrize(("progress", "share"), [(0.1, 0.0), (0.25, 0.0), (0.5, 1 - (2 / 3) ** 3), (1.0, 1.0)])
def test_channels_may_go_step_by_step(progress, share):
    scores = torch.arange(100, dtype=torch.float64)
    mask = prune.channel(scores, t(progress), t(100), ratio=t(0.6), at=t(0.25), end=t(1.0), round_to=t(1))
    assert int((~mask).sum()) == round(0.6 * share * 100)


def test_what_was_removed_before_counts():
    """60 of 100 channels are left; half of the 100 shall go: ten more."""
    scores = torch.arange(60, dtype=torch.float64)
    mask = prune.channel(scores, t(1), t(100), ratio=t(0.5), at=t(0), end=t(0), round_to=t(1))
    assert int(mask.sum()) == 50
    assert int(prune.rollback(scores, t(0), t(100), ratio=t(0.45), round_to=t(1)).sum()) == 55


def test_scores_are_the_papers():
    weights = torch.tensor([[3.0, -4.0], [1.0, 1.0], [0.0, 0.0]])
    gates, scales = torch.tensor([[1.0, -3.0], [0.0, 0.0], [2.0, 0.0]]), torch.tensor([[-0.5], [2.0], [0.1]])
    lot = torch.Generator().manual_seed(0)
    found = {name: score(weights, gates, scales, lot).tolist() for name, score in prune.CHANNEL_SCORES.items()}
    assert found["l1"] == [7.0, 2.0, 0.0]
    assert found["l2"] == pytest.approx([5.0, 2**0.5, 0.0])
    assert found["bn_scale"] == pytest.approx([0.5, 2.0, 0.1])
    assert found["taylor"] == [5.0, 0.0, 2.0]  # ((1)**2 + (-3)**2) / 2, the mean over two mini-batches
    assert len(set(found["random"])) == 3


def test_a_channel_of_two_norms_counts_no_more_than_one_of_one():
    """Of a residual stream, ranked beside a channel inside a block: network slimming compares gammas."""
    lot, none = torch.Generator(), torch.empty(1, 0)
    stream = prune.bn_scale(none, none, torch.tensor([[0.6, -0.4]]), lot)
    inner = prune.bn_scale(none, none, torch.tensor([[0.6]]), lot)
    assert stream.item() == pytest.approx(0.5) and inner.item() == pytest.approx(0.6)


def test_taylor_is_the_change_of_the_loss_to_first_order():
    """Molchanov et al. 2019: removing a channel changes the loss by -sum(g w) to first order."""
    torch.manual_seed(0)
    layer = 1e-3 * torch.randn(4, 6, dtype=torch.float64)
    x = torch.randn(8, 6, dtype=torch.float64)

    def loss(w):
        return torch.tanh(x @ w.T).sum(1).exp().mean()

    w = layer.clone().requires_grad_()
    [slope] = torch.autograd.grad(loss(w), w)
    gates = (layer * slope).sum(1, keepdim=True)  # of one batch
    scores = prune.taylor(layer, gates, layer[:, :0], torch.Generator())
    for i in range(4):
        without = layer.clone()
        without[i] = 0
        change = (loss(without) - loss(layer)).item()
        assert scores[i].item() == pytest.approx(change**2, rel=0.02)


def test_penalties():
    tensors = [torch.tensor([1.0, -2.0]), torch.tensor([[3.0]])]
    assert prune.l1_penalty(tensors, t(0.1)).item() == pytest.approx(0.6)
    assert prune.l2_penalty(tensors, t(0.1)).item() == pytest.approx(1.4)


def test_all_layers_ranked_together_keep_the_largest_of_all():
    scores = [torch.tensor([9.0, 1.0, 8.0, 2.0]), torch.tensor([7.0, 6.0, 0.5, 0.4]), torch.tensor([0.1, 0.2])]
    kept = prune.together(scores, torch.tensor(4.0), 1)
    assert [k.nonzero().flatten().tolist() for k in kept] == [[0, 2], [0, 1], [1]]  # one of each layer stays
    assert [int(k.sum()) for k in prune.together(scores, torch.tensor(4.0), 4)] == [4, 4, 2]
