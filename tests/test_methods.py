"""Every registered method through a run, alone and in lanes, and into a file that computes the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from harness.errors import SpaceError
from harness.export.export import export
from harness.export.template import Templates
from harness.models.build import build_model
from harness.recipe import Recipe
from harness.registries import REGISTRIES
from harness.runtimes import base as runtimes
from harness.train import lanes
from harness.train.fit import Trained, advance, finish, fit
from harness.train.lanes import Examples
from harness.train.predict import predict
from harness.train.quantization_points import weighted_layers
from harness.train.schedule import begin, enter
from harness.train.step import step
from tests.methods import CLASSES, EPOCHS, MANY, MEAN, OTHERS, SHAPE, STD, STUDENTS, begun, recipe_of

MORE: list[tuple[str, str, dict[str, Any]]] = [
    ("quant", "uniform", {"bits": 1}),
    ("quant", "uniform", {"bits": 5, "range": "percentile", "percentile": 98, "start": 1.0}),
    ("quant", "uniform", {"bits": {"default": 3, "first": 8, "last": 32}}),
    ("quant", "dorefa", {"bits": 1, "activations": "pact", "start": 0.0}),
    ("quant", "lsq", {"bits": 4, "activation_bits": 3}),
    ("quant", "dorefa", {"bits": 8, "scaled": False}),
    ("quant", "standardized", {"bits": 8, "range": 2.0}),
    ("quant", "standardized", {"bits": 1}),
    ("quant", "lsq", {"bits": 1}),
    ("prune", "none", {"regularize": "l1", "strength": 0.01}),
    (
        "prune",
        "channel",
        {"ratio": 0.6, "score": "taylor", "at": 0.0, "end": 1.0, "regularize": "l2", "strength": 0.01},
    ),
    ("prune", "channel", {"ratio": {"default": 0.5, "first": 0.0}, "score": "l1"}),
    ("prune", "channel", {"ratio": 0.5, "score": "random"}),
    ("prune", "channel", {"ratio": 0.6, "scope": "global", "round_to": 2}),
    ("prune", "rollback", {"ratio": 0.6, "of": "weights", "tolerance": 1.0}),
    ("prune", "rollback", {"ratio": 0.5, "of": "both", "score": "random", "tolerance": 0.3, "attempts": 3}),
    ("distill", "gradient", {"weight": 1.0, "added": True}),
    ("prune", "weight", {"ratio": 0.7, "scope": "global", "start": 0.0, "end": 0.0}),
]
ON_OTHERS: list[tuple[str, str, dict[str, Any]]] = [
    ("clip", "agc", {"threshold": 0.05}),
    ("distill", "attention", {"weight": 0.5}),
    ("distill", "hint", {"weight": 0.3}),
    ("prune", "channel", {"ratio": 0.6, "score": "bn_scale"}),
    ("quant", "lsq", {"bits": 4, "activations": "pact"}),
    ("quant", "standardized", {"bits": 6}),
]
CASES = [*((section, kind, options) for (section, kind), options in MANY.items()), *MORE]

ON_STUDENTS = [
    (model, *case)
    for model in sorted(STUDENTS)
    for case in CASES
    if (model, case[1]) != ("mlp", "attention")  # which has no feature maps, and is refused: see below
]
IDS = [f"{model}-{section}.{kind}{i}" for i, (model, section, kind, _) in enumerate(ON_STUDENTS)]


def test_every_registered_method_is_a_case() -> None:
    registered = {
        "clip": REGISTRIES.clips,
        "distill": REGISTRIES.distills,
        "prune": REGISTRIES.pruners,
        "quant": REGISTRIES.quantizers,
    }
    assert set(MANY) == {(section, kind) for section, methods in registered.items() for kind in methods}


def finished(recipe: Recipe) -> tuple[Any, Trained]:
    [run] = advance([begun(recipe)], EPOCHS)
    if isinstance(run, Exception):
        raise run
    return run, finish(run)


@pytest.mark.parametrize(("model", "section", "kind", "options"), ON_STUDENTS, ids=IDS)
def test_a_run_ends_in_a_file_that_computes_the_same(
    tmp_path: Path, templates: Templates, model: str, section: str, kind: str, options: dict[str, Any]
) -> None:
    recipe = recipe_of(model, section, kind, options)
    run, trained = finished(recipe)
    path = tmp_path / "model.onnx"
    export(trained, templates, path, SHAPE, MEAN, STD)
    x = run.examples.x
    ours = predict(trained.module, x, trained.quantized)
    raw = x.numpy() * STD[0] + MEAN[0]
    theirs = runtimes.load("onnxruntime", path).logits(raw)
    assert np.isfinite(ours).all()
    # a value on a half rounds either way: one step of an activation; biases round to a step of the sum
    step = 1 / (2 ** recipe.quant.options["activation_bits"] - 1)
    worst, middle = np.abs(ours - theirs).max(), np.median(np.abs(ours - theirs))
    deep = 2 if model in OTHERS else 1  # three times as many layers, each of which rounds
    assert worst <= max(0.05, 2 * step) * np.abs(ours).max()
    assert middle <= deep * max(0.005, step / 2) * np.abs(ours).max()


@pytest.mark.parametrize("model", sorted(OTHERS))
@pytest.mark.parametrize(("section", "kind", "options"), ON_OTHERS, ids=[f"{s}.{k}" for s, k, _ in ON_OTHERS])
def test_residual_and_depthwise_networks_end_in_such_a_file(
    tmp_path: Path, templates: Templates, model: str, section: str, kind: str, options: dict[str, Any]
) -> None:
    test_a_run_ends_in_a_file_that_computes_the_same(tmp_path, templates, model, section, kind, options)


@pytest.mark.parametrize("form", ["stacked", "mapped"])
@pytest.mark.parametrize(("model", "section", "kind", "options"), ON_STUDENTS, ids=IDS)
def test_lanes_equal_students_alone(
    monkeypatch: pytest.MonkeyPatch, model: str, section: str, kind: str, options: dict[str, Any], form: str
) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        recipes = [recipe_of(model, section, kind, options, seed) for seed in (0, 1)]
        alone = [advance([begun(r)], EPOCHS)[0] for r in recipes]
        monkeypatch.setattr(lanes, "fastest", lambda students, *_: form if len(students) > 1 else "alone")
        runs = [begun(r) for r in recipes]
        shared = runs[0].examples
        together = advance([lanes.replace(r, examples=shared) for r in runs], EPOCHS)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(together, alone, strict=True):
        assert not isinstance(one, Exception) and not isinstance(other, Exception)
        torch.testing.assert_close(one.state.params, other.state.params, rtol=1e-9, atol=1e-11)
        assert one.history[-1]["clipped_share"] == other.history[-1]["clipped_share"]


def test_a_fit_is_what_advance_and_finish_do() -> None:
    recipe = recipe_of("mlp", "clip", "norm", {"threshold": 0.5})
    run = begun(recipe)
    direct = fit(recipe, build_model(recipe.student, SHAPE, CLASSES, 0), run.examples)
    _, stepwise = finished(recipe)
    for a, b in zip(direct.module.state_dict().values(), stepwise.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_gradient_blends_those_of_the_two_networks() -> None:
    """One step without momentum: w - lr * ((1 - weight) * g_student + weight * g_teacher)."""
    weight, lr = 0.3, 0.05
    recipe = recipe_of("mlp", "distill", "gradient", {"weight": weight})
    run = begun(replace(recipe, train=replace(recipe.train, momentum=0.0)))
    x, y, _ = run.examples.batch(torch.arange(16))

    def gradients(params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        leaves = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
        loss = F.cross_entropy(functional_call(run.module, leaves, (x,)), y)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    before = run.plan.layout.split(run.state.params)
    ours, theirs = gradients(before), gradients(run.hparams.teacher)
    hparams = lanes.replace(run.hparams, optim={**run.hparams.optim, "step": torch.tensor(1.0)})
    after, _ = step(run.plan, run.state, (x, y, {}), hparams)
    for name, value in run.plan.layout.split(after.params).items():
        want = before[name] - lr * ((1 - weight) * ours[name] + weight * theirs[name])
        torch.testing.assert_close(value, want, rtol=1e-5, atol=1e-7)


def test_a_student_may_start_from_its_teacher() -> None:
    run = begun(recipe_of("convnet", "distill", "parameter", {"weight": 0.5, "from_teacher": True}))
    for name, value in run.plan.layout.split(run.state.params).items():
        assert torch.equal(value, run.hparams.teacher[name])


@pytest.mark.parametrize("kind", ["gradient", "parameter"])
def test_a_teacher_of_other_shapes_is_refused(kind: str) -> None:
    recipe = recipe_of("mlp", "distill", kind, {"weight": 0.5})
    x = torch.zeros(4, *SHAPE)
    other = {"1.weight": torch.zeros(3, 64)}
    with pytest.raises(SpaceError, match=f"distill.kind: '{kind}' needs a teacher of the student's names and shapes"):
        begin(recipe, build_model(recipe.student, SHAPE, CLASSES, 0), Examples(x, torch.zeros(4).long()), other)


def test_attention_without_feature_maps_is_refused() -> None:
    with pytest.raises(SpaceError, match="'attention' needs feature maps, but the"):
        begun(recipe_of("mlp", "distill", "attention", {"weight": 0.5}))


def test_a_linear_schedule_lets_the_teacher_go() -> None:
    run = begun(recipe_of("mlp", "distill", "logits", {"weight": 0.8, "schedule": "linear"}))
    assert [round(float(enter(run, at).hparams.distill["weight"]), 6) for at in (0.0, 0.25, 1.0)] == [0.8, 0.6, 0.0]


def test_layers_may_have_bits_of_their_own() -> None:
    _, trained = finished(recipe_of("convnet", "quant", "uniform", {"bits": {"default": 3, "first": 8, "last": 32}}))
    layers = list(weighted_layers(trained.module))
    assert trained.quantized is not None
    assert trained.quantized.bits == {layers[0]: 8, **dict.fromkeys(layers[1:-1], 3)}
    assert layers[-1] not in trained.quantized.activations


def test_bits_of_a_layer_that_is_not_there_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"quant.bits.haed: is not a layer"):
        begun(recipe_of("mlp", "quant", "uniform", {"bits": {"default": 3, "haed": 8}}))


def test_rounding_after_training_only_leaves_training_alone() -> None:
    rounded, _ = finished(recipe_of("mlp", "quant", "uniform", {"bits": 3, "start": 1.0}))
    plain, _ = finished(recipe_of("mlp", "quant", "uniform", {"bits": 32}))
    assert torch.equal(rounded.state.params, plain.state.params)
