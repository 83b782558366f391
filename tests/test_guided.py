"""What the source articles ask of distillation: teacher's gradients that are added, a copy, phases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from harness.models.build import build_model
from harness.recipe import Recipe
from harness.techniques import DISTILLS, distill
from harness.train.fit import advance
from harness.train.schedule import enter
from harness.train.step import step
from tests.methods import CLASSES, EPOCHS, SHAPE, begun, recipe_of


def t(value: float) -> torch.Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


def test_the_teachers_gradient_is_clamped_and_blended_or_added() -> None:
    rng = np.random.default_rng(0)
    own, theirs = rng.normal(0, 6, (7, 5)), rng.normal(0, 6, (7, 5))
    default = DISTILLS["gradient"].params
    assert (default["threshold"].default, default["added"].default) == (5.0, False)
    for weight in (0.0, 0.3, 1.0):
        for added, kept in ((False, 1 - weight), (True, 1.0)):
            got = distill.guided(
                torch.from_numpy(own), torch.from_numpy(theirs), weight=t(weight), threshold=t(5), added=added
            )
            np.testing.assert_allclose(got.numpy(), kept * own + weight * np.clip(theirs, -5, 5))


def plain(recipe: Recipe) -> Recipe:
    return replace(recipe, train=replace(recipe.train, momentum=0.0))


def test_a_step_adds_the_teachers_clamped_gradient_to_the_students() -> None:
    """The article: w - lr * (g_student + clamp(g_teacher, -c, c)), by torch's own gradients."""
    lr, bound = 0.05, 0.02
    run = begun(plain(recipe_of("mlp", "distill", "gradient", {"weight": 1.0, "threshold": bound, "added": True})))
    x, y, _ = run.examples.batch(torch.arange(16))
    module = build_model(run.recipe.student, SHAPE, CLASSES, 0)

    def gradients(params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        leaves = {n: p.detach().clone().requires_grad_() for n, p in params.items()}
        loss = F.cross_entropy(functional_call(module, leaves, (x,)), y)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    ours = run.plan.layout.split(run.state.params)
    own, theirs = gradients(ours), gradients(run.hparams.teacher)
    assert max(float(g.abs().max()) for g in theirs.values()) > bound, "the clamp binds"
    hparams = run.hparams
    hparams.optim["step"] = torch.tensor(1.0)
    after, _ = step(run.plan, run.state, run.examples.batch(torch.arange(16)), hparams)
    for name, p in run.plan.layout.split(after.params).items():
        expected = ours[name] - lr * (own[name] + theirs[name].clamp(-bound, bound))
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-7)


def test_copy_is_the_teachers_labels_and_the_sum_of_absolute_differences() -> None:
    g = torch.Generator().manual_seed(0)
    z, s = torch.randn(6, 4, generator=g, dtype=torch.float64), torch.randn(6, 4, generator=g, dtype=torch.float64)
    y = torch.randint(0, 4, (6,), generator=g)
    ours = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]])}
    theirs = {"a": torch.tensor([1.5, 2.0]), "b": torch.tensor([[1.0]])}
    strength = t(DISTILLS["copy"].params["strength"].default)
    got = distill.copy({"logits": z, **ours}, y, {"logits": s, **theirs}, {}, weight=t(1), strength=strength)
    torch.testing.assert_close(got, F.cross_entropy(z, s.argmax(1)) + 0.01 * 2.5)
    got = distill.copy({"logits": z, **ours}, y, {"logits": s, **theirs}, {}, weight=t(0), strength=t(0))
    torch.testing.assert_close(got, F.cross_entropy(z, y))


@pytest.mark.parametrize("strength", [0.0, 0.05])
def test_a_copy_ends_nearer_to_its_teacher_the_stronger_it_is_pulled(strength: float) -> None:
    def distance(strength: float) -> float:
        recipe = recipe_of("mlp", "distill", "copy", {"weight": 1.0, "strength": strength})
        run = begun(replace(recipe, prune=replace(recipe.prune, options=OFF)))
        [run] = advance([run], EPOCHS)
        assert not isinstance(run, Exception)
        ours = run.plan.layout.split(run.state.params)
        return sum(float((ours[n] - p).abs().sum()) for n, p in run.hparams.teacher.items())

    OFF = recipe_of("mlp", "prune", "channel", {"ratio": 0.0}).prune.options
    assert distance(strength + 0.05) < distance(strength)


def weight_at(progress: float, **options: Any) -> float:
    run = begun(recipe_of("mlp", "distill", "logits", {"weight": 0.5, **options}))
    return float(enter(run, progress).hparams.distill["weight"])


def test_the_teacher_is_heard_from_its_start_on() -> None:
    assert [weight_at(p, start=0.5) for p in (0.0, 0.49, 0.5, 0.99)] == [0.0, 0.0, 0.5, 0.5]
    assert weight_at(0.0) == 0.5
    assert weight_at(0.75, start=0.5, schedule="linear") == 0.125 and weight_at(0.4, start=0.5, schedule="linear") == 0


def test_before_its_start_a_student_learns_from_labels_alone() -> None:
    taught, alone = (
        advance([begun(recipe_of("mlp", "distill", kind, options))], EPOCHS)[0]
        for kind, options in (("logits", {"weight": 0.9, "start": 1.0}), ("none", {}))
    )
    torch.testing.assert_close(taught.state.params, alone.state.params, rtol=1e-5, atol=1e-6)
