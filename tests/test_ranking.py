"""What channel scores say, against what the loss does when each channel is removed: digits, a trained convnet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

from harness.models.build import build_model
from harness.recipe import parse_recipe
from harness.registries import REGISTRIES
from harness.tasks.digits import digits
from harness.train.fit import advance
from harness.train.lanes import Examples
from harness.train.predict import normalized
from harness.train.pruning import _scores, _slopes, enter, materialize, network_of
from harness.train.schedule import begin
from harness.train.shrink import groups_of

CONVNET = {"model": "convnet", "width": 12, "stages": 2}


def trained(norm: str, seed: int = 0, **prune: Any) -> Any:
    tree = {
        "task": {"name": "digits"},
        "student": {**CONVNET, "norm": norm},
        "train": {"epochs": 12, "batch_size": 64, "lr": 0.05},
        "prune": {"kind": "channel", "ratio": 0.5, "score": "taylor", "at": 1.0, **prune},
        "seed": seed,
    }
    recipe, data = parse_recipe(tree, REGISTRIES), digits()
    module = build_model(recipe.student, data.input_shape, data.classes, recipe.seed)
    run = begin(recipe, module, Examples(normalized(data.train[0], data), data.train[1]), {})
    [run] = advance([run], 12)
    return run


def changes(run: Any) -> dict[str, list[float]]:
    """By torch alone: the rise of the training loss when a channel's output, after its norm, is set to 0."""
    module = materialize(run.module, {**network_of(run), **run.state.buffers}).eval()
    x, y = run.examples.x, run.examples.y

    @torch.no_grad()
    def loss() -> float:
        return F.cross_entropy(module(x), y).item()

    whole, found, layers = loss(), {}, dict(module.named_modules())
    names = [n for n, m in layers.items() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    for i, path in enumerate(names):
        if not isinstance(layers[path], nn.Conv2d):
            continue
        behind = layers[names[i + 1]] if i + 1 < len(names) else None
        end = behind if isinstance(behind, nn.BatchNorm2d) else layers[path]
        found[path] = []
        for c in range(layers[path].out_channels):

            def without(_: Any, __: Any, out: torch.Tensor, c: int = c) -> torch.Tensor:
                return out * (torch.arange(out.shape[1]) != c).reshape(1, -1, 1, 1)

            hook = end.register_forward_hook(without)
            found[path].append(loss() - whole)
            hook.remove()
    return found


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_taylor_ranks_channels_as_the_loss_does(norm: str) -> None:
    run = trained(norm)
    truth = changes(run)
    module = materialize(run.module, {**network_of(run), **run.state.buffers})
    groups = {c.path: c for c in groups_of(module, tuple(run.examples.x.shape[1:]), _slopes(run))}
    scores = _scores(run, groups)
    assert set(truth) == set(scores)
    for path, rises in truth.items():
        rank = spearmanr(scores[path].numpy(), rises).statistic
        print(norm, path, round(rank, 3))
        assert rank > 0.5, path


def test_slopes_of_filters_behind_a_norm_are_nothing_beside_those_of_its_gate() -> None:
    """Scale invariance: what the score was before, sum of w * dL/dw over the filters, has no gate in it."""
    run = trained("batch")
    slopes = _slopes(run)
    norms = [n for n, m in run.module.named_modules() if isinstance(m, nn.BatchNorm2d)]
    convs = [n for n, m in run.module.named_modules() if isinstance(m, nn.Conv2d)]
    gate, filters = slopes[f"{norms[0]}.weight"] + slopes[f"{norms[0]}.bias"], slopes[f"{convs[0]}.weight"]
    assert filters.abs().mean() < 0.02 * gate.abs().mean()


def test_global_scope_ranks_by_gamma_over_all_layers_as_network_slimming_does() -> None:
    """Liu et al. 2017, section 3: one threshold, a percentile of all |gamma|."""
    run = trained("batch", score="bn_scale", scope="global", at=0.0, ratio=0.6)
    run = begin(run.recipe, build_model(run.recipe.student, (1, 8, 8), 10, 0), run.examples, {})
    norms = [n for n, m in run.module.named_modules() if isinstance(m, nn.BatchNorm2d)]
    g = torch.Generator().manual_seed(0)
    params = run.plan.layout.split(run.state.params)
    gammas = {
        n: torch.rand(len(params[f"{n}.weight"]), generator=g) * (0.2 if i == 0 else 1) for i, n in enumerate(norms)
    }
    flat = run.plan.layout.join({**params, **{f"{n}.weight": v for n, v in gammas.items()}})
    after = enter(replace(run, state=replace(run.state, params=flat)), 0.0)
    pooled = torch.cat(list(gammas.values()))
    threshold = pooled.sort().values[round(0.6 * len(pooled))]
    left = after.plan.layout.split(after.state.params)
    for name, gamma in gammas.items():
        expected = gamma[gamma >= threshold] if (gamma >= threshold).any() else gamma.max().reshape(1)
        assert torch.equal(left[f"{name}.weight"], expected)
    assert len({round(len(left[f"{n}.weight"]) / len(v), 2) for n, v in gammas.items()}) > 1
