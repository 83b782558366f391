"""Distillation in whole runs: defaults that do no harm on real data, and each term doing what its paper says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from harness.models.build import build_model
from harness.recipe import Recipe, parse_recipe
from harness.registries import REGISTRIES
from harness.train import lanes
from harness.train.fit import advance, finish
from harness.train.lanes import Examples
from harness.train.predict import predict
from harness.train.schedule import begin, enter
from harness.train.step import step
from harness.train.student import Run
from harness.train.teacher import quantities_of
from harness.trial.score import data_of, normalized_part
from tests.methods import begun, recipe_of
from tests.quadrants import examples, network
from tests.tasks import SETS, needs


def digits(distill: dict[str, Any], seed: int) -> Recipe:
    net = {"model": "convnet", "stages": 2}
    tree = {
        "task": {"name": "digits", "validation": 0.25},
        "teacher": {**net, "width": 48, "epochs": 30, "batch_size": 64, "lr": 0.1},
        "student": {**net, "width": 8},
        "train": {"epochs": 20, "batch_size": 64, "lr": 0.1},
        "distill": distill,
        "seed": seed,
    }
    return parse_recipe(tree, REGISTRIES)


def accuracies(
    recipe: Callable[[dict[str, Any], int], Recipe], distill: dict[str, Any], seeds: range
) -> tuple[np.ndarray, int]:
    """Of students of these seeds on all samples that they were not trained on, and how many those are."""
    recipes = [recipe(distill, seed) for seed in seeds]
    data = data_of(recipes[0])
    shared = Examples(*normalized_part(recipes[0], "train", "cpu"), quantities_of(recipes[0], data, {}, "cpu"))
    modules = [build_model(r.student, data.input_shape, data.classes, r.seed) for r in recipes]
    runs = advance([begin(r, m, shared) for r, m in zip(recipes, modules, strict=True)], recipes[0].train.epochs)
    parts = [normalized_part(recipes[0], part, "cpu") for part in ("validation", "test")]
    x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    hits = [predict(finish(run).module, x).argmax(1) == y.numpy() for run in runs if isinstance(run, Run)]
    assert len(hits) == len(seeds)
    return np.array([h.mean() for h in hits]), len(y)


def test_attention_with_its_default_does_not_hurt_on_digits() -> None:
    without, given, n = with_and_without(digits)
    of_seeds = np.sqrt((without.var(ddof=1) + given.var(ddof=1)) / len(given))
    of_samples = np.sqrt(without.mean() * (1 - without.mean()) / n)
    assert without.mean() > 0.93
    assert given.mean() > without.mean() - max(of_seeds, of_samples)


def with_and_without(recipe: Callable[[dict[str, Any], int], Recipe]) -> tuple[np.ndarray, np.ndarray, int]:
    """Accuracies without and with attention at weight 0.5 (the labels' loss and the authors' term), and of how many
    samples."""
    without, n = accuracies(recipe, {"kind": "none"}, range(4))
    given, _ = accuracies(recipe, {"kind": "attention", "weight": 0.5}, range(4))
    return without, given, n


def fashion(distill: dict[str, Any], seed: int) -> Recipe:
    """As an outsider tried it: few samples and epochs, and a wider teacher."""
    net = {"model": "convnet", "stages": 3}
    tree = {
        "task": {"name": "fashion_mnist", "train_limit": 3000},
        "teacher": {**net, "width": 24, "epochs": 8, "lr": 0.1},
        "student": {**net, "width": 8},
        "train": {"epochs": 8, "batch_size": 64, "lr": 0.1},
        "distill": distill,
        "seed": seed,
    }
    return parse_recipe(tree, REGISTRIES)


@pytest.mark.long
@needs("FashionMNIST")
def test_attention_with_its_default_costs_at_most_a_point_on_fashion(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cost 0.3 points; 3 when the labels' loss counted half beside it."""
    monkeypatch.setenv("HARNESS_DATA", str(SETS))
    without, given, _ = with_and_without(fashion)
    assert without.mean() > 0.7 and given.mean() > without.mean() - 0.01


STRENGTHS = (0.0, 0.001, 0.01, 0.1)


def pulled(strength: float, weight: float = 0.5, **train: Any) -> Recipe:
    net = {"model": "convnet", "width": 8}
    tree = {
        "task": {"name": "digits"},
        "teacher": net,
        "student": net,
        "train": {"epochs": 6, "batch_size": 32, "lr": 0.05, **train},
        "distill": {"kind": "parameter", "weight": weight, "strength": strength},
    }
    return parse_recipe(tree, REGISTRIES)


def guide() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(11)
    return {name: p.detach() + 0.2 * torch.randn(p.shape, generator=g) for name, p in network().named_parameters()}


def distance(run: Any) -> float:
    params = run.plan.layout.split(run.state.params)
    return float(sum((params[name] - other).abs().sum() for name, other in guide().items()))


@pytest.mark.parametrize("form", ["alone", "stacked", "mapped"])
def test_the_distance_to_the_teachers_parameters_falls_with_strength(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """And plain cross-entropy (strength 0) at the same learning rate leaves it where it was."""
    monkeypatch.setattr(lanes, "fastest", lambda *_: form)
    data, teacher = examples(), guide()
    runs = [begin(pulled(strength), network(), data, teacher) for strength in STRENGTHS]
    at_first = distance(runs[0])
    found = [distance(run) for run in advance(runs, 6)]
    assert found[0] > 0.95 * at_first
    assert found[0] > found[1] > found[2] > found[3]
    assert found[2] < 0.9 * found[0], "the default pulls"
    assert found[3] < 0.25 * found[0]


def test_a_pull_comes_as_near_as_its_step() -> None:
    """Labels left out, no momentum: every parameter ends within lr * strength of the teacher's."""
    recipe = pulled(0.1, 1.0, momentum=0.0, schedule="constant", epochs=20)
    [run] = advance([begin(recipe, network(), examples(), guide())], 20)
    assert isinstance(run, Run)
    params = run.plan.layout.split(run.state.params)
    worst = max(float((params[name] - other).abs().max()) for name, other in guide().items())
    assert worst <= 0.05 * 0.1 * 1.001


def test_the_teachers_gradient_is_clamped_before_it_is_added() -> None:
    """Elements beyond +-threshold, by default 5, count as that; the student's own are left alone."""
    assert REGISTRIES.distills["gradient"].params["threshold"].default == 5.0
    weight, lr, threshold = 0.3, 0.05, 1e-3
    recipe = recipe_of("mlp", "distill", "gradient", {"weight": weight, "threshold": threshold})
    run = begun(replace(recipe, train=replace(recipe.train, momentum=0.0)))
    x, y, _ = run.examples.batch(torch.arange(16))

    def gradients(params: dict[str, Tensor]) -> dict[str, Tensor]:
        leaves = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
        loss = F.cross_entropy(functional_call(run.module, leaves, (x,)), y)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    before = run.plan.layout.split(run.state.params)
    ours, theirs = gradients(before), gradients(run.hparams.teacher)
    assert max(float(g.abs().max()) for g in theirs.values()) > 10 * threshold
    hparams = lanes.replace(run.hparams, optim={**run.hparams.optim, "step": torch.tensor(1.0)})
    after, _ = step(run.plan, run.state, (x, y, {}), hparams)
    for name, value in run.plan.layout.split(after.params).items():
        want = before[name] - lr * ((1 - weight) * ours[name] + weight * theirs[name].clamp(-threshold, threshold))
        torch.testing.assert_close(value, want, rtol=1e-5, atol=1e-7)


def test_an_input_gradient_is_that_of_its_own_sample() -> None:
    """Behind batch norm too: what ``jacobian`` sees equals the gradient of each sample by itself, in eval mode."""
    run = begun(recipe_of("convnet", "distill", "jacobian", {"weight": 0.3}))
    seen: dict[str, Tensor] = {}

    def spy(student: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        seen.update(student)
        return student["logits"].square().mean()

    batch = run.examples.batch(torch.arange(16))
    hparams = lanes.replace(run.hparams, optim={**run.hparams.optim, "step": torch.tensor(1.0)})
    after, _ = step(lanes.replace(run.plan, distill=spy), run.state, batch, hparams)
    tensors = {**run.plan.layout.split(run.state.params), **after.buffers}
    for i in range(16):
        x = batch[0][i : i + 1].clone().requires_grad_()
        loss = F.cross_entropy(functional_call(run.module.eval(), tensors, (x,)), batch[1][i : i + 1])
        [own] = torch.autograd.grad(loss, x)
        torch.testing.assert_close(seen["input_gradient"][i : i + 1], own, rtol=1e-4, atol=1e-6)


def test_decoupled_distillation_warms_up_as_in_the_paper() -> None:
    """Zhao et al. 2022: min(epoch / 20, 1) of 240 epochs, counted from 1; the labels keep their weight."""
    recipe = recipe_of("mlp", "distill", "dkd", {"weight": 0.5})
    run = begun(replace(recipe, train=replace(recipe.train, epochs=240)))
    for epoch in (1, 2, 7, 20, 21, 240):
        given = enter(run, (epoch - 1) / 240).hparams.distill
        factor = min(epoch / 20, 1)
        assert float(given["alpha"]) == pytest.approx(1.0 * factor)
        assert float(given["beta"]) == pytest.approx(8.0 * factor)
        assert float(given["weight"]) == 0.5
