"""The runtimes on one exported file: equal predictions, and what each says about its kernels."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from harness.errors import SpaceError, TrialError
from harness.export.export import UNFOLD, export
from harness.export.template import Templates
from harness.machine.host import saturates
from harness.recipe import Deploy
from harness.registries import REGISTRIES
from harness.runtimes.base import load
from harness.runtimes.onnxruntime import operators
from harness.train.fit import Trained
from tests.runtimes import ROUNDS, case, skip_unless_installed
from tests.students import MEAN, SHAPE, STD, STUDENTS, examples, raw, trained_student

openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the extra openvino is not here")


BITS = (32, 8, 3)


@pytest.fixture(scope="module")
def students() -> dict[int, Trained]:
    """The convnet at 32, 8 and 3 bits."""
    return {bits: trained_student("convnet", bits, "channel") for bits in BITS}


@pytest.fixture(scope="module")
def files(
    students: dict[int, Trained], templates: Templates, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Their files for onnxruntime, and beside these for OpenVINO."""
    folder = tmp_path_factory.mktemp("files")
    for bits, trained in students.items():
        export(trained, templates, folder / f"{bits}.onnx", SHAPE, MEAN, STD)
        plain = folder / f"{bits}.openvino.onnx"
        export(trained, templates, plain, SHAPE, MEAN, STD, deploy=Deploy(runtime="openvino"))
    return {bits: folder / f"{bits}.onnx" for bits in BITS}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("runtime", [case(name) for name in REGISTRIES.runtimes])
def test_every_runtime_computes_the_file_that_is_made_for_it(
    students: dict[int, Trained], templates: Templates, tmp_path: Path, runtime: str, bits: int
) -> None:
    """As onnxruntime does, up to float32 sums, a step of rounded activations, or their not being rounded."""
    skip_unless_installed(runtime, tmp_path)
    path = tmp_path / "model.onnx"
    export(students[bits], templates, path, SHAPE, MEAN, STD, deploy=Deploy(runtime=runtime))
    x = raw(examples().x[:32])
    ours, theirs = load("onnxruntime", path).logits(x), load(runtime, path).logits(x, batch=16)
    assert theirs.shape == ours.shape and theirs.dtype == np.float32
    bound = 1e-3 if bits == 32 else 4 / 127 if ROUNDS[runtime] else 0.1
    assert np.abs(ours - theirs).max() <= bound * np.abs(ours).max()


def test_streams_are_packed_for_registered_runtimes_only() -> None:
    assert set(REGISTRIES.runtimes) >= UNFOLD


@pytest.mark.parametrize("bits", [32, 8, 3])
def test_onnxruntimes_profile_tells_which_layers_ran_in_integers(files: dict[int, Path], bits: int) -> None:
    layers = load("onnxruntime", files[bits]).layers()
    assert len(layers) >= 3 and {layer.integer for layer in layers} == {bits < 32}
    ran = {operator for _, operator in operators(files[bits].read_bytes())}
    assert ("DequantizeLinear" in ran) <= (bits < 32)


@pytest.mark.parametrize("prune", ["channel", "weight"])
@pytest.mark.parametrize("bits", [32, 3])
@pytest.mark.parametrize("student", sorted(STUDENTS))
def test_torch_computes_the_file(student: str, bits: int, prune: str, templates: Templates, tmp_path: Path) -> None:
    """fp32: the same logits. Few bits: weights dequantized, activations not rounded, so near them."""
    export(trained_student(student, bits, prune), templates, tmp_path / "m.onnx", SHAPE, MEAN, STD)
    x = raw(examples().x[:32])
    ours, loaded = load("onnxruntime", tmp_path / "m.onnx").logits(x), load("torch", tmp_path / "m.onnx")
    theirs = loaded.logits(x, batch=8)
    assert np.abs(ours - theirs).max() <= (1e-5 if bits == 32 else 0.1) * np.abs(ours).max()
    assert len(loaded.layers()) >= 2 and not any(layer.integer for layer in loaded.layers())


def test_torch_names_an_operator_that_it_lacks(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 4])
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"])], "g", [value], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SpaceError, match="torch cannot run the operator Erf"):
        load("torch", tmp_path / "m.onnx")


@openvino
@pytest.mark.parametrize("bits", [32, 8, 3])
def test_openvino_agrees_with_onnxruntime(files: dict[int, Path], bits: int) -> None:
    x = raw(examples().x[:64])
    plain = files[bits].with_suffix(".openvino.onnx")
    ours, theirs = load("onnxruntime", files[bits]).logits(x), load("openvino", plain).logits(x, batch=16)
    assert np.array_equal(load("onnxruntime", plain).logits(x), ours), "the container changes nothing"
    assert theirs.shape == ours.shape and theirs.dtype == np.float32
    bound = 1e-4 if bits == 32 else 4 / 127
    assert np.abs(ours - theirs).max() <= bound * np.abs(ours).max()


@openvino
@pytest.mark.parametrize("bits", [32, 8, 3])
def test_openvino_names_its_kernels(files: dict[int, Path], bits: int) -> None:
    """Of exact integers it has none where sums saturate: 8 bits are computed in float32 there."""
    layers = load("openvino", files[bits].with_suffix(".openvino.onnx")).layers()
    integer = bits < 8 or (bits == 8 and not saturates())
    assert len(layers) >= 3 and {layer.integer for layer in layers} == {integer}, layers


@openvino
def test_openvino_refuses_what_it_would_compute_wrongly(files: dict[int, Path]) -> None:
    with pytest.raises(SpaceError, match=r"packed for onnxruntime \(BitShift\)"):
        load("openvino", files[3])


def test_a_runtime_of_the_users_own(files: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_runtime.py").write_text(
        "import numpy as np\nfrom harness.runtimes.base import Loaded\n"
        "def load(path, threads):\n    return Loaded((1, 8, 8), run=lambda x: np.zeros((len(x), 3), np.float32))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load("my_runtime:load", files[8]).logits(np.zeros((5, 1, 8, 8), np.float32)).shape == (5, 3)


def test_an_unknown_or_missing_runtime_is_named(files: dict[int, Path]) -> None:
    with pytest.raises(SpaceError, match="Did you mean 'onnxruntime'"):
        load("onnxruntim", files[8])
    with pytest.raises(SpaceError, match="has no CUDA provider"):
        load("onnxruntime-cuda", files[8])


def test_samples_of_another_shape_are_one_message(files: dict[int, Path]) -> None:
    """A file from somebody else may fit another task."""
    loaded = load("onnxruntime", files[8])
    with pytest.raises(TrialError, match=re.escape(f"takes samples of shape {SHAPE}, but the data have (7,)")):
        loaded.logits(np.zeros((2, 7), np.float32))
