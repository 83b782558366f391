"""The loop: schedules happen, removal and rounding are real in the result, runs repeat exactly."""

import numpy as np
import pytest
import torch
from torch import nn

from harness.errors import SpaceError, TrialError
from harness.techniques import QUANTIZERS
from harness.train.fit import advance, finish, fit
from harness.train.quantization_points import points_of, weighted_layers
from harness.train.rounding import used_weights
from harness.train.schedule import begin, enter
from tests.quadrants import accuracy, examples, network, recipe


def test_a_plain_run_learns_and_repeats_bit_for_bit():
    data = examples()
    first, second = (fit(recipe(), network(), data) for _ in range(2))
    assert accuracy(first, data) > 0.9
    for a, b in zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert first.quantized is None and not first.sparse


def test_channels_are_physically_removed_and_training_goes_on():
    data = examples()
    trained = fit(recipe(prune={"kind": "channel", "ratio": 0.5, "at": 0.3}), network(), data)
    assert trained.module[0].weight.shape == (4, 1, 3, 3)
    assert trained.module[3].weight.shape == (6, 4, 3, 3)
    assert trained.module[8].weight.shape == (4, 6)
    sizes = [row["parameters"] for row in trained.history]
    assert sizes[0] == sizes[1] > sizes[2] == sizes[-1]
    assert accuracy(trained, data) > 0.8
    assert trained.diagnostics["channels_kept"]["0"] == [4, 8]


@pytest.mark.parametrize("ratio", [0.5, 0.95])
def test_weights_are_zero_in_the_stated_share(ratio):
    trained = fit(recipe(prune={"kind": "weight", "ratio": ratio}), network(), examples())
    for layer in weighted_layers(trained.module):
        weight = trained.module.get_submodule(layer).weight
        assert int((weight == 0).sum()) == round(ratio * weight.numel())
    assert trained.sparse and trained.diagnostics["sparsity"] == pytest.approx(ratio, abs=0.02)


WIDTHS = [(kind, bits) for kind, m in QUANTIZERS.items() for bits in m.params["bits"].choices if bits in (1, 2, 3, 8)]


@pytest.mark.parametrize(("kind", "bits"), WIDTHS)
def test_pruned_weights_are_zero_from_the_first_rounded_epoch_on(kind, bits):
    """In every epoch's weights and in the file's integers, one-bit grids and others without a zero included."""
    scope = "global" if bits % 2 else "layer"
    [run] = [
        begin(
            recipe(
                prune={"kind": "weight", "ratio": 0.7, "scope": scope, "start": 0.0, "end": 0.5},
                quant={"kind": kind, "bits": bits, "start": 0.2},
            ),
            network(),
            examples(),
        )
    ]
    for epoch in range(1, 7):
        [run] = advance([run], epoch)
        used = used_weights(run)
        assert bool(run.plan.quantize) == (epoch >= 3)
        for layer, mask in run.state.masks.items():
            assert bool((used[f"{layer}.weight"][mask == 0] == 0).all()), (epoch, layer)
    trained = finish(run)
    stored = trained.quantized.integers
    zeros, total = sum(int((q == 0).sum()) for q in stored.values()), sum(q.size for q in stored.values())
    assert trained.diagnostics["sparsity"] == zeros / total
    pruned = sum(int((m == 0).sum()) for m in run.state.masks.values())
    assert trained.diagnostics["pruned"] == pruned / total == pytest.approx(0.7, abs=0.01)
    for layer, mask in run.state.masks.items():
        assert (stored[layer][mask.numpy() == 0] == 0).all()
        assert len(set(stored[layer][mask.numpy() == 1].tolist())) <= 2**bits


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_weights_are_the_stored_integers(bits):
    data = examples()
    trained = fit(recipe(quant={"bits": bits}, train={"epochs": 9, "batch_size": 32, "lr": 0.1}), network(), data)
    assert trained.quantized is not None
    top = 2 ** (bits - 1) - 1
    for layer in weighted_layers(trained.module):
        q, scale = trained.quantized.integers[layer], trained.quantized.scales[layer]
        assert q.dtype == np.int8 and np.abs(q).max() == top
        stored = q * scale.reshape(-1, *[1] * (q.ndim - 1))
        np.testing.assert_allclose(trained.module.get_submodule(layer).weight.detach().numpy(), stored, rtol=1e-6)
    assert set(trained.quantized.activations) == set(points_of(trained.module))
    assert [row["activations_rounded"] for row in trained.history] == [0] * 6 + [1] * 3
    assert accuracy(trained, data) > (0.6 if bits == 2 else 0.85)


def test_everything_at_once():
    data = examples(teacher=True)
    trained = fit(
        recipe(
            teacher={"model": "convnet"},
            clip={"kind": "norm", "threshold": 0.5},
            prune={"kind": "channel", "ratio": 0.25},
            quant={"bits": 4},
            distill={"kind": "logits", "weight": 0.5, "temperature": 2.0},
        ),
        network(),
        data,
    )
    assert 0 < trained.diagnostics["clipped_share"] <= 1
    assert accuracy(trained, data) > 0.8


def test_one_epoch_still_ends_pruned_and_rounded():
    trained = fit(
        recipe(train={"epochs": 1, "lr": 0.05}, prune={"kind": "channel", "ratio": 0.5}, quant={"bits": 4}),
        network(),
        examples(),
    )
    assert trained.quantized is not None and trained.module[0].weight.shape[0] == 4


def test_a_diverging_run_is_a_trial_error_that_names_the_step():
    data = examples()
    data.x[40] = float("nan")
    with pytest.raises(TrialError, match=r"nonfinite.*epoch 1, step \d+"):
        fit(recipe(), network(), data)


def test_channels_go_step_by_step_and_training_goes_on():
    trained = fit(
        recipe(prune={"kind": "channel", "ratio": 0.75, "at": 0.0, "end": 0.7, "score": "l1"}), network(), examples()
    )
    sizes = [row["parameters"] for row in trained.history]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) >= 3
    assert trained.diagnostics["channels_kept"]["0"] == [2, 8]


def test_a_rollback_takes_back_what_costs_too_much():
    data = examples()
    free = fit(recipe(prune={"kind": "rollback", "ratio": 0.5, "tolerance": 1.0, "at": 0.3}), network(), data)
    assert free.diagnostics["channels_kept"]["0"] == [4, 8]
    section = {"kind": "rollback", "ratio": 0.9, "tolerance": 0.0, "at": 0.3, "step": 0.45}
    held = fit(recipe(prune=section), network(), data)
    kept, before = held.diagnostics["channels_kept"].get("0", [8, 8])
    assert before == 8 and kept > 1, "the target would cost accuracy"
    assert accuracy(held, data) > 0.9


def test_bn_scale_follows_the_batch_norms():
    net = network()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([1.0, 0.1, 2, 0.2, 3, 0.3, 4, 0.4]))
    section = {"kind": "channel", "ratio": 0.5, "at": 0.0, "score": "bn_scale"}
    run = enter(begin(recipe(prune=section), net, examples()), 0.0)
    assert run.module[1].weight.tolist() == [1.0, 2.0, 3.0, 4.0]
    bare = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(SpaceError, match="'bn_scale' needs a batch norm behind 1"):
        enter(begin(recipe(prune=section), bare, examples()), 0.0)


@pytest.mark.parametrize("on", ["weights", "scales"])
def test_a_penalty_shrinks_what_it_is_taken_of(on):
    def size(strength):
        section = {"kind": "none", "regularize": "l1", "on": on, "strength": strength}
        net = fit(recipe(prune=section), network(), examples()).module
        layers = [net[1], net[4]] if on == "scales" else [net[0], net[3], net[8]]
        return sum(float(layer.weight.detach().abs().sum()) for layer in layers)

    assert size(0.03) < 0.8 * size(0.0)


def test_weights_may_be_ranked_over_all_layers():
    section = {"kind": "weight", "ratio": 0.6, "scope": "global"}
    trained = fit(recipe(prune=section), network(), examples())
    weights = [trained.module.get_submodule(name).weight for name in weighted_layers(trained.module)]
    zeros, total = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
    assert zeros == round(0.6 * total)
    assert trained.diagnostics["sparsity"] == trained.diagnostics["pruned"] == zeros / total, (
        "of weights, not of layers"
    )
    assert len({round(float((w == 0).float().mean()), 2) for w in weights}) > 1
