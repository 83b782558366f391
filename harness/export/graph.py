"""The ONNX graph of a student: a template's nodes, folded and stored weights, and a quantize/dequantize pair at every
quantization point."""

from __future__ import annotations

import hashlib
import itertools
import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from harness.export.facts import is_large
from harness.export.narrow import Parts, Store
from harness.export.template import IR_VERSION, OPSET, Template
from harness.methods import FLOAT_BITS
from harness.train.quantization_points import owners
from harness.train.rounding import Quantized

UINT8_MAX = 255  # the largest integer of an activation
Range = tuple[float, int, int]  # scale, zero point, largest integer


@dataclass
class _Layer:
    """One weighted layer that is being built. ``weight`` is int8 with ``scale`` (C_out,), or float32 without a scale;
    ``owner`` is the path of the layer that holds the weight; ``bias`` is float32 or None."""

    owner: str
    weight: np.ndarray
    bias: np.ndarray | None
    scale: np.ndarray | None = None
    bits: int = FLOAT_BITS

    def fold(self, factor: np.ndarray, shift: np.ndarray) -> None:
        """Fold ``y * factor + shift`` (per output channel) into the layer."""
        shape = (-1, *[1] * (self.weight.ndim - 1))
        if self.scale is None:
            self.weight = (self.weight * factor.reshape(shape)).astype(np.float32)
        else:
            sign = np.where(factor < 0, -1, np.where(factor == 0, 0, 1)).astype(np.int8)
            self.weight = self.weight * sign.reshape(shape)
            self.scale = np.where(factor == 0, 1.0, self.scale * np.abs(factor)).astype(np.float32)
        self.bias = (shift if self.bias is None else self.bias * factor + shift).astype(np.float32)


@dataclass
class _Build:
    template: Template
    state: dict[str, np.ndarray]
    quantized: Quantized | None
    groups: dict[str, int]
    paths: dict[str, str]  # node output -> layer path; folding renames outputs
    readers: Counter[str]  # tensor -> how often it is read
    layers: dict[str, _Layer] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    parts: Parts = field(default_factory=Parts)
    bytes_of: dict[tuple[str, Range], str] = field(default_factory=dict)  # tensor, range -> its dequantized twin
    scale_of: dict[str, float] = field(default_factory=dict)
    stored: dict[Any, str] = field(default_factory=dict)  # owner and values -> name of a weight in the store
    zeros_taken: dict[int, str] = field(default_factory=dict)  # width -> the layer of large integers that uses them

    def shared(self, name: str, values: np.ndarray) -> str:
        """The name of an initializer that several nodes read, written once.

        Zero points are among them: onnxruntime uses its int8 operators only if the weight's zero point is explicit.
        """
        if name not in {t.name for t in self.parts.tensors}:
            self.parts.tensor(name, values)
        return name

    def dequantized(self, inputs: list[str], name: str, axis: int) -> str:
        """Add the node that turns a weight's or bias's integers into floats, once. Return its output's name."""
        if name not in {output for node in self.parts.nodes for output in node.output}:
            self.parts.node("DequantizeLinear", inputs, name, axis=axis)
        return name

    def copied_weight(self, weight: str) -> str:
        """A copy of the weight for a further call of its layer: onnxruntime converts a weight to uint8 only if it has
        one reader."""
        name = f"{weight}{len(self.parts.nodes)}"
        return self.parts.node("Concat", [weight], name, axis=0)  # folded on load; an Identity would be removed

    def zeros(self, own_name: str, weight: np.ndarray, product: bool) -> str:
        """The zero points of a layer: one tensor shared by all layers of a width, or the layer's own, ``own_name``.

        onnxruntime may convert the zero points of a MatMul and those of large integers (facts.py) to uint8, each
        once. Two such layers therefore must not share a tensor.
        """
        width = len(weight)
        if product:
            return self.shared(own_name, np.zeros(width, np.int8))
        if is_large(weight):
            owner = self.zeros_taken.setdefault(width, own_name)
            if owner != own_name:
                return self.shared(own_name, np.zeros(width, np.int8))
        return self.shared(f"zeros{width}", np.zeros(width, np.int8))


def build_graph(
    template: Template,
    module: nn.Module,
    quantized: Quantized | None,
    sparse: bool,
    narrow: bool = True,
    unfolds: bool = True,
) -> onnx.ModelProto:
    """The ONNX model of ``module`` (CPU, eval).

    Args:
        quantized: the integers and ranges, None for a float32 file.
        sparse: whether a weight may be stored without its zeros.
        narrow: True stores integers at their width in bits; False stores int8 and float32 tensors. The outputs are
            equal bit for bit.
        unfolds: see :class:`harness.export.narrow.Store`.
    """
    tensors = {**dict(module.named_buffers()), **module.state_dict()}  # state_dict lacks non-persistent buffers
    state = {k: v.detach().numpy() for k, v in tensors.items()}
    groups = {name: m.groups for name, m in module.named_modules() if isinstance(m, nn.Conv2d)}
    readers = Counter(name for node in template.nodes for name in node.input)
    build = _Build(template, state, quantized, groups, dict(template.paths), readers)
    owned = owners(module)
    for path in template.paths.values():
        if path in owned:
            build.layers[path] = _layer(path, owned[path], state, quantized)
    nodes = _fold_norms(build, [_copy(n) for n in template.nodes])
    store = Store(narrow, unfolds)
    for node in nodes:
        _place(build, node, store, sparse)
    return _model(build, store.finish(), _output_classes(nodes, build))


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _layer(path: str, owner: str, state: dict[str, np.ndarray], quantized: Quantized | None) -> _Layer:
    """The layer at ``path``, with the integers of its weight's owner."""
    bias = state.get(f"{path}.bias")
    if quantized is None or owner not in quantized.integers:
        return _Layer(owner, state[f"{path}.weight"], bias)
    return _Layer(owner, quantized.integers[owner], bias, quantized.scales[owner], quantized.bits[owner])


def _fold_norms(build: _Build, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Fold every BatchNormalization that is the only reader of a layer's output.

    A layer that is called more than once is folded only if norms of equal values follow all of its calls.
    """
    while foldable := _foldable(build, nodes):
        for path, pairs in foldable.items():
            build.layers[path].fold(*_affine(build, pairs[0][1]))
            for call, norm in pairs:
                build.paths[norm.output[0]] = path
                call.output[0] = norm.output[0]
        folded = {id(norm) for pairs in foldable.values() for _, norm in pairs}
        nodes = [node for node in nodes if id(node) not in folded]
    return nodes


def _foldable(build: _Build, nodes: list[onnx.NodeProto]) -> dict[str, list[tuple[onnx.NodeProto, onnx.NodeProto]]]:
    """The layers whose norms can be folded: path -> pairs of a call and the norm that reads its output."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    calls: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
        path = build.paths.get(node.output[0])
        if path in build.layers:
            calls.setdefault(path, []).append(node)
    pairs = {}
    for path, layer_calls in calls.items():
        behind = [readers.get(call.output[0], []) for call in layer_calls]
        product = any(call.op_type == "MatMul" for call in layer_calls)  # a MatMul has its channels on the last axis
        if product or any([node.op_type for node in read] != ["BatchNormalization"] for read in behind):
            continue
        affine = [_affine(build, norm) for [norm] in behind]
        if all(np.array_equal(each, affine[0]) for each in affine):
            pairs[path] = [(call, norm) for call, [norm] in zip(layer_calls, behind, strict=True)]
    return pairs


def _affine(build: _Build, norm: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
    """Factor and shift of every channel, (C,) each."""
    gamma, beta, mean, variance = (build.state[name].astype(np.float64) for name in norm.input[1:5])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    factor = gamma / np.sqrt(variance + epsilon)
    return factor, beta - mean * factor


def _place(build: _Build, node: onnx.NodeProto, store: Store, sparse: bool) -> None:
    """Append one node to the graph with its weights, and quantize its inputs if it has a quantization point."""
    path = build.paths.get(node.output[0])
    if path is None:
        for name in node.input:
            if name in build.state:
                build.shared(name, build.state[name])
    elif path in build.layers:
        _place_layer(build, node, path, store, sparse)
    elif build.quantized is not None:
        points = [path] if path in build.quantized.activations else [f"{path}.0", f"{path}.1"]
        for i, point in enumerate(points):
            node.input[i] = _as_bytes(build, node.input[i], point)
    build.nodes.append(node)


def _place_layer(build: _Build, node: onnx.NodeProto, path: str, store: Store, sparse: bool) -> None:
    layer = build.layers[path]
    if node.op_type == "Conv":
        for attribute in node.attribute:
            if attribute.name == "group":
                attribute.i = build.groups[path]
    product = node.op_type == "MatMul"  # its weight has the output channels last; its bias is a separate Add
    values, bias = np.ascontiguousarray(layer.weight.T if product else layer.weight), None if product else layer.bias
    key = (layer.owner, values.shape, hashlib.sha256(values.data).digest())
    weight = build.stored.get(key)
    if weight is None:
        weight = build.stored[key] = f"{path}.v" if product else f"{path}.w"
        store.add(weight, values, layer.bits, sparse)
    elif layer.scale is not None and is_large(layer.weight):
        weight = build.copied_weight(weight)
    del node.input[2:]
    if layer.scale is None:
        node.input[1] = weight
        if bias is not None:
            node.input.append(build.shared(f"{path}.b", bias.astype(np.float32)))
        return
    node.input[0] = _as_bytes(build, node.input[0], path)
    scale = build.shared(f"{path}.s", layer.scale.astype(np.float32))
    zeros = build.zeros(f"{weight}.zp", layer.weight, product)
    node.input[1] = build.dequantized([weight, scale, zeros], f"{weight}.{path}.d", int(product))
    if bias is not None:
        step = layer.scale.astype(np.float64) * build.scale_of[node.input[0]]
        q = np.clip(np.rint(bias / step), -(2**31) + 1, 2**31 - 1).astype(np.int32)
        names = [build.shared(f"{path}.b", q), build.shared(f"{path}.t", step.astype(np.float32))]
        node.input.append(build.dequantized(names, f"{path}.B", 0))


def _as_bytes(build: _Build, tensor: str, point: str) -> str:
    """The name of ``tensor`` after quantize and dequantize.

    All readers with the same range share it; a further call of a layer may have another range.
    """
    if build.quantized is None:
        raise ValueError("a float32 graph has no quantization points")
    key = (tensor, build.quantized.activations[point])
    if key not in build.bytes_of:
        scale, zero, top = key[1]
        scale_and_zero = [
            build.shared(f"{point}.x", np.asarray(scale, np.float32)),
            build.shared(f"{point}.z", np.asarray(zero, np.uint8)),
        ]
        most = "" if top == UINT8_MAX else build.shared(f"{point}.m", np.asarray(top, np.uint8))
        if any(node.output[0] == f"{point}.d" for node in build.nodes):
            point = f"{point}.{len(build.bytes_of)}"  # the input of a further call of the same layer
        flatten = next((n for n in build.nodes if n.output[0] == tensor and n.op_type == "Flatten"), None)
        # quantize also in front of a Flatten (the values are the same), so that the layer before it outputs bytes
        if flatten is not None and build.readers[tensor] == 1:
            build.nodes.remove(flatten)
            flatten.input[0] = _round_trip(build, flatten.input[0], scale_and_zero, f"{point}.f", most)
            build.nodes.append(flatten)
        build.bytes_of[key] = _round_trip(build, tensor, scale_and_zero, point, most)
        build.scale_of[build.bytes_of[key]] = scale
    return build.bytes_of[key]


def _round_trip(build: _Build, tensor: str, scale_and_zero: list[str], name: str, most: str) -> str:
    """Quantize and dequantize ``tensor`` with the tensors in ``scale_and_zero``.

    ``most`` names the tensor with the largest integer; it is empty if that is 255. The clip acts on the integers, so
    that the operator in front still runs as an integer kernel.
    """
    integers = f"{name}.q"
    build.nodes.append(helper.make_node("QuantizeLinear", [tensor, *scale_and_zero], [integers]))
    if most:
        build.nodes.append(helper.make_node("Clip", [integers, "", most], [f"{name}.l"]))
        integers = f"{name}.l"
    build.nodes.append(helper.make_node("DequantizeLinear", [integers, *scale_and_zero], [f"{name}.d"]))
    return f"{name}.d"


def _output_classes(nodes: list[onnx.NodeProto], build: _Build) -> int | None:
    path = build.paths.get(nodes[-1].output[0])
    return len(build.layers[path].weight) if path in build.layers else None


def _model(build: _Build, stored: Parts, classes: int | None) -> onnx.ModelProto:
    used = {name for node in build.nodes for name in node.input}
    constants = [numpy_helper.from_array(v, k) for k, v in build.template.constants.items() if k in used]
    shape = ["b", *build.template.input_shape]
    graph = helper.make_graph(
        stored.nodes + build.parts.nodes + build.nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", classes or "c"])],
        initializer=constants + stored.tensors + build.parts.tensors,
    )
    return helper.make_model(_short_names(graph), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _short_names(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Rename every tensor to one or two characters: in a small model long names take more bytes than the weights."""
    used = [name for node in graph.node for name in (*node.input, *node.output)]
    used += [tensor.name for tensor in graph.initializer]
    fixed_names = {"input", "logits", ""}
    renamed = dict(zip(dict.fromkeys(name for name in used if name not in fixed_names), _labels(), strict=False))
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = renamed[tensor.name]
    return graph


def _labels() -> Iterator[str]:
    """Names d, e, ... Z, 1a, 1b, ... Without a, b and c, files stay byte-equal to those of earlier versions."""
    letters = string.ascii_letters
    yield from letters[3:]
    for number in itertools.count(1):
        yield from (f"{number}{letter}" for letter in letters)
