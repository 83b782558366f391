"""PACT's trained ranges: one for each tensor, whatever number of layers read it, and decayed as weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from harness.export.export import export
from harness.export.template import Templates
from harness.recipe import parse_recipe
from harness.registries import REGISTRIES
from harness.train import lanes
from harness.train.fit import advance, finish
from harness.train.step import step
from tests.methods import MEAN, SHAPE, STD, begun

STUDENT = {"model": "resnet", "depth": 8, "width": 8}


def student(seed: int = 0, **train: Any) -> Any:
    tree = {
        "task": {"name": "digits"},
        "student": STUDENT,
        "train": {"epochs": 4, "batch_size": 16, "lr": 0.05, **train},
        "quant": {"kind": "pact", "bits": 4, "start": 0.0, "activation_bits": 4},
        "seed": seed,
    }
    return begun(parse_recipe(tree, REGISTRIES))


def trained(run: Any) -> Any:
    [run] = advance([run], 4)
    assert not isinstance(run, Exception)
    return run


def test_readers_of_one_tensor_share_the_range_that_the_file_has(tmp_path: Path) -> None:
    """In the file a block's input is rounded once, for its first convolution, its shortcut and its sum."""
    made = finish(trained(student()))
    export(made, Templates(tmp_path / "graphs"), tmp_path / "model.onnx", SHAPE, MEAN, STD)
    model = onnx.load(tmp_path / "model.onnx")
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    in_file = {float(tensors[n.input[1]]) for n in model.graph.node if n.op_type == "QuantizeLinear"}
    simulated = {float(np.float32(scale)) for scale, _, _ in made.quantized.activations.values()}
    assert simulated == in_file
    points = made.quantized.activations
    assert points["stage1.0.body.conv1"] == points["stage1.0.add.1"], "the identity shortcut"
    assert points["stage2.0.body.conv1"] == points["stage2.0.shortcut.conv"]
    assert points["stage1.0.add.0"] != points["stage1.0.add.1"]


@pytest.mark.parametrize("form", ["stacked", "mapped"])
def test_residual_lanes_equal_students_alone(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        alone = [trained(student(seed)) for seed in (0, 1)]
        monkeypatch.setattr(lanes, "fastest", lambda students, *_: form if len(students) > 1 else "alone")
        runs = [student(seed) for seed in (0, 1)]
        together = advance([lanes.replace(r, examples=runs[0].examples) for r in runs], 4)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(together, alone, strict=True):
        assert not isinstance(one, Exception)
        torch.testing.assert_close(one.state.params, other.state.params, rtol=1e-9, atol=1e-11)


def test_alpha_decays_as_the_weights_do() -> None:
    """Choi et al. 2018, section 3: an L2 regularizer for alpha; here the weights' own. An alpha above all
    activations has no other gradient, so that SGD shrinks it by 1 - lr * weight_decay."""
    lr, decay = 0.05, 0.1
    [run] = advance([student(momentum=0.0, weight_decay=decay)], 1)
    before = run.plan.layout.split(run.state.params)
    names = [name for name in before if name.endswith(".alpha")]
    assert names
    wide = {name: p * 100 if name in names else p for name, p in before.items()}
    state = lanes.replace(run.state, params=run.plan.layout.join(wide))
    hparams = lanes.replace(run.hparams, optim={**run.hparams.optim, "step": torch.tensor(1.0)})
    after, _ = step(run.plan, state, run.examples.batch(torch.arange(16)), hparams)
    for name in names:
        want = wide[name] * (1 - lr * decay)
        torch.testing.assert_close(run.plan.layout.split(after.params)[name], want, rtol=1e-5, atol=0)
