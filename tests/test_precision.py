"""Convolutions and products in bfloat16, everything else in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.export.export import export
from harness.export.template import Templates
from harness.recipe import Recipe
from harness.runtimes import base as runtimes
from harness.train import lanes
from harness.train.fit import advance, finish, fit
from harness.train.predict import predict
from tests.methods import EPOCHS, MANY, MEAN, SHAPE, STD, begun, recipe_of
from tests.quadrants import accuracy, examples, network
from tests.quadrants import recipe as of_quadrants

CASES = [
    (model, section, kind, options)
    for model in ("convnet", "mlp")
    for (section, kind), options in MANY.items()
    if section in ("distill", "quant") and (model, kind) != ("mlp", "attention")
]
IDS = [f"{model}-{section}.{kind}" for model, section, kind, _ in CASES]


def in_bfloat16(recipe: Recipe) -> Recipe:
    return replace(recipe, train=replace(recipe.train, precision="bfloat16"))


def moved(recipe: Recipe) -> Tensor:
    """How far the parameters went in the epoch before channels go."""
    run = begun(recipe)
    [after] = advance([run], 1)
    assert not isinstance(after, Exception)
    return after.state.params - run.state.params


@pytest.mark.parametrize(("model", "section", "kind", "options"), CASES, ids=IDS)
def test_every_method_learns_what_it_learns_in_float32(
    model: str, section: str, kind: str, options: dict[str, Any]
) -> None:
    recipe = recipe_of(model, section, kind, options)
    wanted, got = moved(recipe), moved(in_bfloat16(recipe))
    assert got.dtype == torch.float32
    assert not torch.equal(got, wanted), "it computes in fewer bits"
    assert torch.cosine_similarity(got, wanted, dim=0) > 0.95


@pytest.mark.parametrize("form", ["stacked", "mapped"])
@pytest.mark.parametrize("model", ["convnet", "mlp"])
def test_lanes_are_students_alone_up_to_its_bits(monkeypatch: pytest.MonkeyPatch, model: str, form: str) -> None:
    recipes = [in_bfloat16(recipe_of(model, "quant", "uniform", {"bits": 4}, seed)) for seed in (0, 1)]
    alone = [moved(r) for r in recipes]
    monkeypatch.setattr(lanes, "fastest", lambda students, *_: form if len(students) > 1 else "alone")
    runs = [begun(r) for r in recipes]
    together = advance([lanes.replace(r, examples=runs[0].examples) for r in runs], 1)
    for run, after, wanted in zip(runs, together, alone, strict=True):
        assert not isinstance(after, Exception)
        assert torch.cosine_similarity(after.state.params - run.state.params, wanted, dim=0) > 0.99


def test_students_of_different_precision_do_not_train_as_lanes() -> None:
    recipe = recipe_of("mlp", "clip", "norm", {"threshold": 0.5})
    one, other = begun(recipe), begun(in_bfloat16(recipe))
    assert lanes.structure(one.plan, one.state) != lanes.structure(other.plan, other.state)


def test_the_file_computes_what_the_student_does(tmp_path: Path) -> None:
    run = begun(in_bfloat16(recipe_of("convnet", "quant", "uniform", {"bits": 6})))
    [run] = advance([run], EPOCHS)
    assert not isinstance(run, Exception)
    trained, path = finish(run), tmp_path / "model.onnx"
    export(trained, Templates(tmp_path / "graphs"), path, SHAPE, MEAN, STD)
    x = run.examples.x
    ours = predict(trained.module, x, trained.quantized)
    theirs = runtimes.load("onnxruntime", path).logits(x.numpy() * STD[0] + MEAN[0])
    assert np.median(np.abs(ours - theirs)) <= 0.005 * np.abs(ours).max()


def test_it_learns_as_well() -> None:
    data = examples()
    assert accuracy(fit(in_bfloat16(of_quadrants()), network(), data), data) > 0.9
