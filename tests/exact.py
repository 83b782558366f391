"""What a file computes where no sum of integers saturates: the graph in numpy, products summed in int64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper
from onnx.reference import ReferenceEvaluator

Integers = tuple[np.ndarray, np.ndarray]  # values without their zero point, and the scale of each


def logits(model: bytes, x: np.ndarray) -> np.ndarray:
    """Outputs (N, C) of a serialized model for raw inputs x (N, ...).

    A convolution or a product of dequantized tensors sums its integers in int64 and is scaled in float64;
    any other operator is ONNX's reference implementation, in float32.
    """
    graph = onnx.ModelProto.FromString(model).graph
    known = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer} | {"input": x, "": None}
    integers: dict[str, Integers] = {}
    for node in graph.node:
        given = [known[name] for name in node.input]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "DequantizeLinear":
            integers[node.output[0]] = _dequantized(*given, axis=attributes.get("axis", 1))
        if node.op_type in PRODUCTS and {node.input[0], node.input[1]} <= set(integers):
            bias = np.float64(0) if len(given) < 3 else _value(integers[node.input[2]])
            made = PRODUCTS[node.op_type](integers[node.input[0]], integers[node.input[1]], attributes)
            made = made + np.reshape(bias, (-1, *[1] * (made.ndim - 2)))
            known[node.output[0]] = made.astype(np.float32)
            continue
        feeds = {name: value for name, value in zip(node.input, given, strict=True) if name}
        for name, value in zip(node.output, ReferenceEvaluator(node).run(None, feeds), strict=True):
            known[name] = value
    return known["logits"]


def _dequantized(q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None, *, axis: int) -> Integers:
    shape = [1] * q.ndim
    if scale.ndim:
        shape[axis] = -1
    center = np.zeros((), np.int64) if zero is None else zero.astype(np.int64)
    values = q.astype(np.int64) - (center.reshape(shape) if center.ndim else center)
    return values, scale.astype(np.float64).reshape(shape if scale.ndim else ())


def _value(found: Integers) -> np.ndarray:
    return found[0] * found[1]


def _conv(x: Integers, w: Integers, attributes: dict[str, Any]) -> np.ndarray:
    (top, left, bottom, right), (down, along) = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
    groups, (height, width) = attributes.get("group", 1), w[0].shape[2:]
    padded = np.pad(x[0], ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = sliding_window_view(padded, (height, width), axis=(2, 3))[:, :, ::down, ::along]
    parts = [
        np.einsum("nchwkl,ockl->nohw", images, kernels, optimize=True)
        for images, kernels in zip(np.split(windows, groups, axis=1), np.split(w[0], groups, axis=0), strict=True)
    ]
    return np.concatenate(parts, axis=1) * (x[1] * w[1]).reshape(-1, 1, 1)


def _gemm(x: Integers, w: Integers, attributes: dict[str, Any]) -> np.ndarray:
    assert attributes.get("transB") == 1
    return (x[0] @ w[0].T) * (x[1] * w[1]).reshape(1, -1)


PRODUCTS = {"Conv": _conv, "Gemm": _gemm}
