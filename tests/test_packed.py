"""The packed format: bit for bit, never larger, near the entropy, and safe on damaged files."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import harness
from harness.errors import SpaceError
from harness.export import packed
from harness.export.export import to_bytes
from harness.export.graph import build_graph
from harness.export.narrow import to_gaps
from harness.export.packed import pack, unpack
from harness.export.template import Templates
from harness.runtimes.base import load
from tests.students import MEAN, SHAPE, STD, STUDENTS, examples, raw, trained_student


def model_of(*weights: np.ndarray) -> bytes:
    """A model whose initializers are the weights."""
    tensors = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [value],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        initializer=tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model.SerializeToString(deterministic=True)


def integers(bits: int, ratio: float, count: int, seed: int) -> np.ndarray:
    """Bell-shaped integers of so many bits, the smallest ``ratio`` of them zero."""
    rng = np.random.default_rng(seed)
    top = max(1, 2 ** (bits - 1) - 1)
    values = rng.normal(0, 1, count)
    values[np.abs(values) <= np.quantile(np.abs(values), ratio)] = 0
    q = np.rint(values / max(np.abs(values).max(), 1e-9) * top)
    return np.where((q == 0) & (values != 0), np.sign(values), q).astype(np.int8)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 8),
    st.floats(0, 0.99),
    st.lists(st.integers(0, 5000), min_size=1, max_size=3),
    st.integers(0, 2**31),
)
def test_it_comes_back_bit_for_bit_and_is_never_larger(bits: int, ratio: float, sizes: list[int], seed: int) -> None:
    floats = np.random.default_rng(seed).normal(size=37).astype(np.float32)
    model = model_of(floats, *(integers(bits, ratio, n, seed) if n else np.zeros(0, np.int8) for n in sizes))
    made = pack(model)
    assert unpack(made) == model and len(made) <= len(model)


@pytest.mark.parametrize("bits", [2, 4, 8, 32])
@pytest.mark.parametrize("student", sorted(STUDENTS))
def test_every_student_comes_back_and_computes_the_same(student: str, bits: int, tmp_path: Path) -> None:
    trained = trained_student(student, bits, "weight" if bits < 32 else "channel")
    template = Templates(tmp_path / "templates").get(trained.module, SHAPE, MEAN, STD)
    graphs = [
        to_bytes(build_graph(template, trained.module, trained.quantized, trained.sparse, narrow=n))
        for n in (True, False)
    ]
    for graph in graphs:
        made = pack(graph)
        assert unpack(made) == graph and len(made) < len(graph)
    path = tmp_path / "model.hpk"
    path.write_bytes(pack(graphs[1]))
    (tmp_path / "model.onnx").write_bytes(graphs[1])
    x = raw(examples().x[:16])
    assert np.array_equal(load("onnxruntime", path).logits(x), load("onnxruntime", tmp_path / "model.onnx").logits(x))
    assert harness.load(path) == onnx.load(tmp_path / "model.onnx")


def test_lenet300_at_95_percent_and_4_bits_is_within_a_tenth_of_its_entropy() -> None:
    """The bound is the zeroth-order entropy of gaps and values, the symbols that are coded."""
    layers = [integers(4, 0.95, a * b, seed) for seed, (a, b) in enumerate([(784, 300), (300, 100), (100, 10)])]
    bound = 0.0
    for layer in layers:
        gaps, where = to_gaps(layer.view(np.uint8))
        bound += sum(_entropy_bytes(s) for s in (gaps, layer[where]))
    size = sum(len(packed._tensor(numpy_helper.from_array(layer))) for layer in layers)
    assert bound < size <= 1.1 * bound


def _entropy_bytes(symbols: np.ndarray) -> float:
    counts = np.array(list(Counter(symbols.tolist()).values()), float)
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


MODEL = model_of(integers(4, 0.9, 3000, 0), np.random.default_rng(1).normal(size=100).astype(np.float32))

SAID = r"ends too early|altered|broken|stated|states|unknown|no end|fit|follow|graph"


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damage_is_a_clear_error(data: st.DataObject) -> None:
    made = pack(MODEL)
    at = data.draw(st.integers(len(packed.MAGIC), len(made) - 1))
    damaged = data.draw(st.sampled_from([made[:at], made + b"\0", made[:at] + made[at + 1 :]]))
    with pytest.raises(ValueError, match=SAID):
        unpack(damaged)


@settings(deadline=None, max_examples=200)
@given(st.integers(len(packed.MAGIC), len(pack(MODEL)) - 1), st.integers(1, 255))
@example(at=337, flipped=1)  # a bit of a deflate stream that means nothing
def test_an_altered_byte_is_a_clear_error_or_changes_nothing(at: int, flipped: int) -> None:
    made = pack(MODEL)
    try:
        found = unpack(made[:at] + bytes([made[at] ^ flipped]) + made[at + 1 :])
    except ValueError as error:
        assert re.search(SAID, str(error))
    else:
        assert found == MODEL


def test_a_file_that_states_too_much_is_refused_before_anything_is_decoded() -> None:
    with pytest.raises(ValueError, match="more than the 1000 allowed"):
        unpack(pack(MODEL), limit=1000)
    bomb = packed._deflate(bytes(50_000_000), huffman=False)
    head = packed.MAGIC + packed._varint(2000) + bytes(packed.DIGEST)
    for part in (
        bytes([packed.DEFLATE]) + packed._varint(1000) + packed._stream(bomb),  # longer than it states
        bytes([packed.DEFLATE]) + packed._varint(50_000_000) + packed._stream(bomb),  # more than the file's size
    ):
        with pytest.raises(ValueError, match="than stated|than the size that it states"):
            unpack(head + part)


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    """In a process that may hold 500 MiB more than it has, a file that would inflate to 4 GiB."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = coder.compress(bytes(2**24)) + coder.flush(zlib.Z_FULL_FLUSH)  # ends on a byte: may be repeated
    bomb = zeros * 256 + coder.flush()
    data = packed.MAGIC + packed._varint(2000) + bytes(packed.DIGEST)
    data += bytes([packed.DEFLATE]) + packed._varint(2000) + packed._stream(bomb)
    (tmp_path / "bomb.hpk").write_bytes(data)
    code = (
        "import resource, sys\nfrom harness.export.packed import read\nfrom pathlib import Path\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 500 * 2**20,) * 2)\n"
        "from harness.errors import SpaceError\n"
        "try:\n    read(Path(sys.argv[1]))\nexcept SpaceError as error:\n    print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "bomb.hpk")], capture_output=True, text=True)
    assert "is damaged: a stream in it has another length than stated" in ran.stdout, ran.stderr


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.hpk").write_bytes(pack(MODEL)[:-3])
    with pytest.raises(SpaceError, match=r"m\.hpk.*is damaged: it ends too early"):
        harness.load(tmp_path / "m.hpk")
    with pytest.raises(SpaceError, match="nowhere.hpk: no such file"):
        harness.load(tmp_path / "nowhere.hpk")


def test_entropy_of_a_fair_coin_is_a_bit() -> None:
    assert _entropy_bytes(np.array([0, 1] * 400)) == pytest.approx(100) and math.isclose(_entropy_bytes(np.zeros(9)), 0)
