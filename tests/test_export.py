"""The file: equal to torch's simulation, integer kernels, narrow equals wide bit for bit."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn

from harness.errors import TrialError
from harness.export.export import export, structure_key, to_bytes
from harness.export.graph import build_graph
from harness.export.narrow import Store, from_bits, to_bits, to_gaps
from harness.export.template import Templates
from harness.machine.host import session_options
from harness.measure.audit import audit
from harness.models.build import build_model
from harness.recipe import Deploy, parse_recipe
from harness.registries import REGISTRIES
from harness.train.fit import Trained, fit
from harness.train.predict import predict
from harness.train.rounding import Quantized
from harness.trial import run as trial
from tests.jobs import job
from tests.students import MEAN, PRUNES, SHAPE, STD, STUDENTS, examples, raw, trained_student

SAMPLES = 64


def plain_student(change) -> Trained:
    recipe = parse_recipe({"task": {"name": "digits"}, "student": {"model": "convnet"}}, REGISTRIES)
    module = build_model(recipe.student, SHAPE, 10, 0)
    change(module)
    return Trained(module.eval(), None, False, [], {})


def diverge(module, value):
    bn = next(m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d))
    bn.running_var.fill_(value)
    bn.running_mean.fill_(value)


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy, of inf times 0
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_student_that_diverged_is_called_that(templates, tmp_path, value):
    trained = plain_student(lambda module: diverge(module, value))
    with pytest.raises(TrialError, match="diverged.*Lower train.lr"):
        export(trained, templates, tmp_path / "model.onnx", SHAPE, MEAN, STD)


def session(model: bytes, optimized: str = "") -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for name, value in session_options().items():
        options.add_session_config_entry(name, value)
    if optimized:
        options.optimized_model_filepath = optimized
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("prune", sorted(PRUNES))
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8, 32])
@pytest.mark.parametrize("model", sorted(STUDENTS))
def test_the_file_computes_what_torch_simulates(model, bits, prune, templates, tmp_path):
    """fp32 to 1e-5 of the largest logit. Quantized: the runtime rounds a value that lies on a half
    another way now and then, at most one step of a byte a layer, so the bound is one such step
    through every layer, and the predicted classes agree on all but 2 of the samples whose two best logits
    lie a step apart at least (barely trained students tie)."""
    trained = trained_student(model, bits, prune)
    path = tmp_path / "model.onnx"
    made = export(trained, templates, path, SHAPE, MEAN, STD, deploy=Deploy(metadata="none"))
    x = examples().x[:SAMPLES]
    want = predict(trained.module, x, trained.quantized)
    got = session(path.read_bytes()).run(None, {"input": raw(x)})[0]
    scale = np.abs(want).max()
    if bits == 32:
        assert np.abs(got - want).max() <= 1e-5 * scale
    else:
        layers = len(trained.quantized.integers)
        assert np.abs(got - want).max() <= layers * scale / 127
        best = np.sort(want, axis=1)
        decided = best[:, -1] - best[:, -2] > scale / 127
        assert decided.mean() > 0.5
        assert (got.argmax(1) != want.argmax(1))[decided].sum() <= 2
    assert made.artifact.size_bytes == path.stat().st_size == made.waterfall["file"]
    wide = build_graph(
        templates.get(trained.module, SHAPE, MEAN, STD), trained.module, trained.quantized, trained.sparse, narrow=False
    )
    assert np.array_equal(session(to_bytes(wide)).run(None, {"input": raw(x)})[0], got)
    assert made.artifact.size_bytes <= wide.ByteSize()
    if 2 <= bits < 8:
        assert made.artifact.size_bytes < wide.ByteSize()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("model", sorted(STUDENTS))
def test_integer_kernels_run_whatever_the_storage(model, bits, templates, tmp_path):
    trained = trained_student(model, bits, "channel")
    export(trained, templates, tmp_path / "model.onnx", SHAPE, MEAN, STD)
    session((tmp_path / "model.onnx").read_bytes(), str(tmp_path / "optimized.onnx"))
    ran = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    layers = len(trained.quantized.integers)
    assert ran["QLinearConv"] + ran["QGemm"] == layers, ran
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "DequantizeLinear", "BitShift", "Cast"} & set(ran)


def test_files_carry_nothing_of_the_exporter_and_repeat_byte_for_byte(templates, tmp_path):
    trained = trained_student("convnet", 4, "channel")
    export(trained, templates, tmp_path / "a.onnx", SHAPE, MEAN, STD)
    export(trained, templates, tmp_path / "b.onnx", SHAPE, MEAN, STD)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    model = onnx.load(tmp_path / "a.onnx")
    assert model.ir_version == 10 and model.opset_import[0].version == 21
    assert not model.graph.value_info and not any(n.metadata_props or n.doc_string for n in model.graph.node)
    assert [i.name for i in model.graph.input] == ["input"] and [o.name for o in model.graph.output] == ["logits"]


def test_one_template_serves_every_width_and_other_processes(templates, tmp_path):
    first = Templates(tmp_path / "shared")
    small, large = (
        build_model(
            parse_recipe({"task": {"name": "digits"}, "student": {"model": "convnet", "width": w}}, REGISTRIES).student,
            SHAPE,
            10,
            0,
        ).eval()
        for w in (4, 24)
    )
    template = first.get(small, SHAPE, MEAN, STD)
    assert first.get(large, SHAPE, MEAN, STD) is template
    reread = Templates(tmp_path / "shared").get(large, SHAPE, MEAN, STD)
    x = examples().x[:4]
    for t in (template, reread):
        got = session(to_bytes(build_graph(t, large, None, sparse=False))).run(None, {"input": raw(x)})[0]
        np.testing.assert_allclose(got, predict(large, x), rtol=1e-4, atol=1e-6)


def test_structure_follows_the_shapes_not_the_values_or_the_width_of_storage(templates):
    def key(bits: int, prune: str) -> str:
        trained = trained_student("convnet", bits, prune)
        return structure_key(
            build_graph(
                templates.get(trained.module, SHAPE, MEAN, STD),
                trained.module,
                trained.quantized,
                trained.sparse,
                narrow=False,
            )
        )

    assert key(2, "weight") == key(6, "weight") != key(6, "channel")
    assert key(32, "weight") not in (key(6, "weight"), key(32, "channel"))


def test_the_waterfall_falls(templates, tmp_path):
    recipe = parse_recipe(
        {
            "task": {"name": "digits"},
            "student": {"model": "mlp", "hidden": [48, 32]},
            "prune": PRUNES["channel"],
            "quant": {"bits": 3},
            "train": {"epochs": 2},
        },
        REGISTRIES,
    )
    module, full = (build_model(recipe.student, SHAPE, 10, 0) for _ in range(2))
    made = export(fit(recipe, module, examples()), templates, tmp_path / "m.onnx", SHAPE, MEAN, STD, unpruned=full)
    w = made.waterfall
    assert w["fp32"] > w["pruned"] > w["quantized"] > w["file"]
    assert w["fp32"] > 4 * (16 * 16 * 48 + 48 * 32 + 32 * 10)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(0, 300), st.integers(0, 1000))
def test_bit_streams_round_trip_at_their_true_size(bits, count, seed):
    values = np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.uint8)
    stream = to_bits(values, bits)
    assert len(stream) == -(-count * bits // 8)
    assert np.array_equal(from_bits(stream, bits, count), values)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.floats(0, 1), st.integers(0, 1000))
def test_gaps_find_every_entry(size, density, seed):
    rng = np.random.default_rng(seed)
    flat = np.where(rng.random(size) < density, rng.integers(1, 100, size), 0)
    gaps, where = to_gaps(flat)
    assert gaps.dtype == np.uint8
    assert np.array_equal(np.cumsum(gaps, dtype=np.int64), where)
    rebuilt = np.zeros_like(flat)
    rebuilt[where] = flat[where]
    assert np.array_equal(rebuilt, flat)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([2, 3, 4, 5, 6, 7, 8, 32]),
    st.floats(0, 0.99),
    st.integers(0, 1000),
    st.integers(100, 200),
    st.integers(80, 120),
)
def test_narrow_storage_gives_back_every_value_and_is_smaller(bits, sparsity, seed, rows, columns):
    rng = np.random.default_rng(seed)
    top = 2 ** (min(bits, 8) - 1) - 1
    values = rng.integers(-top, top + 1, (rows, columns)).astype(np.int8)
    values = values.astype(np.float32) * 0.37 if bits == 32 else values
    values[rng.random(values.shape) < sparsity] = 0
    files = []
    for narrow in (True, False):
        store = Store(narrow)
        store.add("w", values, bits, may_be_sparse=True)
        store.add("v", values[:5], bits, may_be_sparse=True)
        parts = store.finish()
        kind = TensorProto.FLOAT if bits == 32 else TensorProto.INT8
        graph = helper.make_graph(
            parts.nodes + [helper.make_node("Identity", [n], [f"out_{n}"]) for n in "wv"],
            "g",
            [],
            [helper.make_tensor_value_info(f"out_{n}", kind, None) for n in "wv"],
            initializer=parts.tensors,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        files.append(model.SerializeToString())
        w, v = session(files[-1]).run(None, {})
        assert np.array_equal(w, values) and np.array_equal(v, values[:5])
    if bits < 8 or sparsity > 0.6:
        assert len(files[0]) < len(files[1])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(0, 1000), st.booleans(), st.sampled_from([0.0, 0.0, 0.5, 0.997]))
@example(3, 0, True, 0.997)  # nothing is left: onnxruntime refuses to multiply an empty stream
def test_integers_that_do_not_fit_their_width_are_places_in_a_table(bits, seed, sparse, pruned):
    rng = np.random.default_rng(seed)
    known = rng.choice(np.arange(-127, 128), rng.integers(1, 2**bits + 1), replace=False).astype(np.int8)
    values = rng.choice(known, (40, 60)).astype(np.int8)
    values[rng.random(values.shape) < pruned] = 0  # a value more, where the grid has no zero
    if sparse and 0 in known:
        values[rng.random(values.shape) < 0.95] = 0
    found = []
    for unfolds in (True, False):
        store = Store(narrow=True, unfolds=unfolds)
        store.add("w", values, bits, may_be_sparse=sparse)
        parts = store.finish()
        out = [helper.make_tensor_value_info("out", TensorProto.INT8, None)]
        nodes = [*parts.nodes, helper.make_node("Identity", ["w"], ["out"])]
        graph = helper.make_graph(nodes, "g", [], out, initializer=parts.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        found.append(model.SerializeToString())
        [w] = session(found[-1]).run(None, {})
        assert np.array_equal(w, values)
    width = bits if len(np.unique(values)) <= 2**bits else bits + 1
    assert len(found[0]) <= values.size * width / 8 + 2**width + 900


@pytest.mark.parametrize(("ratio", "stored"), [(0.5, "2-bit"), (0.95, "1-bit sparse")])
def test_one_bit_and_a_zero_take_two_bits_or_gaps_and_signs(ratio, stored, templates, tmp_path):
    """The bytes: 2 bits a weight, or 9 for each that is left, beside what the same graph has at 1 bit."""
    layer = nn.Linear(256, 400, bias=False)
    rng = np.random.default_rng(0)
    signs = np.where(rng.random((400, 256)) < 0.5, -1, 1).astype(np.int8)
    kept = rng.permutation(signs.size).reshape(signs.shape) >= round(ratio * signs.size)
    sizes = []
    for values in (signs, signs * kept):
        made = Trained(
            nn.Sequential(nn.Flatten(), layer).eval(),
            Quantized({"1": values}, {"1": np.ones(400, np.float32)}, {"1": 1}, {"1": (0.01, 0, 255)}),
            bool((values == 0).any()),
            [],
            {},
        )
        path = tmp_path / f"{len(sizes)}.onnx"
        sizes.append(export(made, templates, path, SHAPE, MEAN, STD).artifact.size_bytes)
    entries = round((1 - ratio) * signs.size)
    want = signs.size * (2 - 1) / 8 if stored == "2-bit" else entries * 9 / 8 - signs.size / 8
    assert sizes[1] - sizes[0] == pytest.approx(want, abs=450)
    [seen] = audit(path).layers
    assert seen.stored == stored and seen.zeros == pytest.approx(1 - entries / signs.size)


def test_two_bits_of_a_small_network_are_no_larger_than_four(tmp_path):
    """A stream of bits needs operators; where they take more than it saves, the integers are INT4."""
    sizes, stored = {}, {}
    for bits in (2, 4):
        tree = {
            "task": {"name": "digits"},
            "student": {"model": "mlp", "hidden": [8]},
            "train": {"epochs": 2},
            "quant": {"bits": bits},
        }
        record = trial.run(job(tree, tmp_path / str(bits)))
        path = tmp_path / str(bits) / "model.onnx"
        sizes[bits] = path.stat().st_size
        stored[bits] = Counter(TensorProto.DataType.Name(t.data_type) for t in onnx.load(path).graph.initializer)
        assert record.value("size_bytes") == sizes[bits]
    assert stored[2]["INT4"] == 2 and sizes[2] <= sizes[4]
