"""What an audit says, on files whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.export.export import export
from harness.export.template import Templates
from harness.measure.audit import audit
from harness.recipe import Deploy
from tests.students import MEAN, SHAPE, STD, STUDENTS, trained_student


def stored_as(bits: int, size: int) -> set[str]:
    return {32: {"float32"}, 8: {"int8"}, 4: {"int4", "int8"}}.get(bits, {f"{bits}-bit", "int4", "int8"})


@pytest.mark.parametrize("prune", ["channel", "weight"])
@pytest.mark.parametrize("bits", [3, 4, 8, 32])
@pytest.mark.parametrize("student", sorted(STUDENTS))
def test_every_layer_is_found_with_its_width_zeros_and_kernel(
    student: str, bits: int, prune: str, templates: Templates, tmp_path: Path
) -> None:
    trained = trained_student(student, bits, prune)
    export(trained, templates, tmp_path / "model.onnx", SHAPE, MEAN, STD)
    found = audit(tmp_path / "model.onnx")
    layers = [m.weight.detach().numpy() for m in trained.module.modules() if getattr(m, "weight", None) is not None]
    layers = [w for w in layers if w.ndim > 1]
    assert sorted(layer.shape for layer in found.layers) == sorted(w.shape for w in layers)
    assert {layer.integer for layer in found.layers} == {bits < 32}
    assert found.size_bytes == (tmp_path / "model.onnx").stat().st_size
    widths = {layer.stored.removesuffix(" sparse") for layer in found.layers}
    assert widths <= stored_as(bits, found.size_bytes), widths
    if trained.quantized is not None:
        zeros = [float((q == 0).mean()) for q in trained.quantized.integers.values()]
        assert sorted(layer.zeros for layer in found.layers) == pytest.approx(sorted(zeros))


def test_masked_channels_are_told_from_removed_ones(templates: Templates, tmp_path: Path) -> None:
    trained = trained_student("convnet", 32, "channel")
    first = next(m for m in trained.module.modules() if getattr(m, "weight", np.zeros(1)).ndim == 4)
    before = first.weight.data.clone()
    first.weight.data[:2] = 0
    try:
        export(trained, templates, tmp_path / "m.onnx", SHAPE, MEAN, STD)
    finally:
        first.weight.data = before
    assert sum(layer.zero_channels for layer in audit(tmp_path / "m.onnx").layers) >= 2


def test_the_command_prints_it_for_a_packed_file_too(templates: Templates, tmp_path: Path) -> None:
    path = tmp_path / "model.hpk"
    export(trained_student("convnet", 4, "channel"), templates, path, SHAPE, MEAN, STD, deploy=Deploy(format="packed"))
    ran = CliRunner().invoke(app, ["audit", str(path)])
    assert ran.exit_code == 0, ran.output
    assert "QLinearConv" in ran.output and "packed" in ran.output and "integer kernels: 3 of 3 layers" in ran.output
