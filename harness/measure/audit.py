"""Audit of a file: how each layer is stored, how many of its weights are zero, and which kernel runs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from harness.export import packed
from harness.export.constants import behind, evaluate
from harness.runtimes.base import Layer, load

WEIGHTED_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class LayerAudit:
    """One weighted layer of a file.

    shape          of its weight, output channels first
    stored         ``float32``, ``int8``, ``int4``, ``3-bit``, with ``sparse`` if zeros are not stored
    zeros          share of its weights that are zero
    zero_channels  output channels with only zero weights: masked, not removed
    kernel         the runtime's kernel for it;  ``integer``: whether the kernel multiplies integers
    """

    operator: str
    shape: tuple[int, ...]
    stored: str
    zeros: float
    zero_channels: int
    kernel: str
    integer: bool


@dataclass(frozen=True)
class Audit:
    """The audit of a file on one runtime. ``operators``: operator -> number of nodes in the file."""

    path: str
    format: str
    size_bytes: int
    runtime: str
    layers: tuple[LayerAudit, ...]
    operators: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """The audit in JSON's types only, so that a record equals the one that is read back."""
        layers = [asdict(layer) | {"shape": list(layer.shape)} for layer in self.layers]
        return asdict(self) | {"path": Path(self.path).name, "layers": layers}


def audit(path: str | Path, runtime: str = "onnxruntime") -> Audit:
    """Inspect an ONNX or packed file and run it once.

    Raises:
        SpaceError: the file does not exist or cannot be loaded.
    """
    path = Path(path)
    kernels = load(runtime, path).layers()
    data = packed.read(path)
    model = onnx.ModelProto.FromString(data)
    products = list(_products(model))
    if len(kernels) != len(products):  # the runtime fused or split layers: name all kernels for every layer
        kernels = [_common(kernels)] * len(products)
    kernels = [ran for ran, (_, name, _) in zip(kernels, products, strict=True) if name]
    named_products = [product for product in products if product[1]]
    values = evaluate(model, [name for _, name, _ in named_products])
    layers = tuple(
        LayerAudit(node.op_type, v.shape, stored, float((v == 0).mean()), _zero_channels(v), ran.kernel, ran.integer)
        for (node, _, stored), v, ran in zip(named_products, values, kernels, strict=True)
    )
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    form = "packed" if path.read_bytes()[: len(packed.MAGIC)] == packed.MAGIC else "onnx"
    return Audit(str(path), form, path.stat().st_size, runtime, layers, dict(sorted(counts.items())))


def _common(kernels: list[Layer]) -> Layer:
    names = sorted({k.kernel for k in kernels})
    return Layer("", " / ".join(names) or "unknown", bool(kernels) and all(k.integer for k in kernels))


def _products(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    """Triples of a product's node, the name of its weight tensor before dequantization, and how that is stored. The
    texts are empty for a product of two activations, as in attention."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    tensors = {t.name: t for t in model.graph.initializer}
    fed = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED_OPERATORS or not behind(node.input[0], made_by)[1] & fed:
            continue  # a product of constants belongs to the unpacking of weights
        name = node.input[1]
        if name in made_by and made_by[name].op_type == "DequantizeLinear":
            name = made_by[name].input[0]
        nodes, sources = behind(name, made_by)
        yield (node, "", "") if sources & fed else (node, name, _stored(name, nodes, tensors))


def _stored(name: str, nodes: list[onnx.NodeProto], tensors: dict[str, onnx.TensorProto]) -> str:
    """The storage of a weight in words, derived from the operators that unpack it."""
    operators = {node.op_type for node in nodes}
    types = {tensors[i].data_type for node in nodes for i in node.input if i in tensors}
    if name in tensors:
        types = {tensors[name].data_type}
    if "BitShift" in operators:
        width = f"{_stream_width(nodes, tensors)}-bit"
    elif TensorProto.INT4 in types:
        width = "int4"
    else:
        width = "int8" if TensorProto.INT8 in types else "float32"
    return f"{width} sparse" if "ScatterND" in operators else width


def _stream_width(nodes: list[onnx.NodeProto], tensors: dict[str, onnx.TensorProto]) -> int:
    """The width of a stream's integers, from the Reshape to (-1, width) that groups its bits; 0 if there is none."""
    for node in nodes:
        if node.op_type == "Reshape" and node.input[1] in tensors:
            shape = onnx.numpy_helper.to_array(tensors[node.input[1]])
            if len(shape) == 2 and shape[0] == -1:
                return int(shape[1])
    return 0


def _zero_channels(weight: np.ndarray) -> int:
    return int((weight.reshape(len(weight), -1) == 0).all(axis=1).sum())
