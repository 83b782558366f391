"""Running an exported file with PyTorch: eager or compiled, on the CPU or a GPU.

onnxruntime evaluates the constant part of the graph once; the rest becomes a list of torch calls.
PyTorch has no integer kernels for these graphs: low-bit weights are dequantized when the file
is loaded, activations are not rounded, and low bits make only the file smaller. Accuracy on this
runtime is measured with exactly this computation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import SpaceError
from harness.export.constants import behind, evaluate
from harness.runtimes.base import WEIGHTED_KERNELS, Layer, Loaded

Attributes = dict[str, Any]
LISTED = {"Reshape": "shape", "ReduceMean": "axes"}  # operators whose second input is a list of numbers


class Graph(nn.Module):
    """An ONNX graph as torch calls on (B, ...) float32. Constants are buffers."""

    def __init__(self, model: onnx.ModelProto):
        super().__init__()
        [model_input] = model.graph.input
        [model_output] = model.graph.output
        self.input_name, self.output_name = model_input.name, model_output.name
        self.shape = tuple(d.dim_value for d in model_input.type.tensor_type.shape.dim[1:])
        self.calls = _live(model)
        produced = {output for node in self.calls for output in node.output}
        constants = {i for node in self.calls for i in node.input if i and i not in produced} - {self.input_name}
        for node in self.calls:  # shapes and axes are numbers to torch, not tensors
            if node.op_type in LISTED and len(node.input) > 1:
                constants.discard(node.input[1])
        names = sorted(constants)
        for name, value in zip(names, evaluate(model, names), strict=True):
            self.register_buffer(_safe(name), torch.from_numpy(np.array(value)))
        self.nodes = [(_operator(node), *_arguments(model, node)) for node in self.calls]
        self.constants = constants

    def forward(self, x: Tensor) -> Tensor:
        values = {self.input_name: x, **{name: getattr(self, _safe(name)) for name in self.constants}}
        for call, inputs, attributes, output in self.nodes:
            values[output] = call(*(values[i] if i else None for i in inputs), **attributes)
        return values[self.output_name]


def _live(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that depend on the input."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    fed = {value.name for value in model.graph.input}
    return [node for node in model.graph.node if behind(node.output[0], made_by)[1] & fed]


def _safe(name: str) -> str:
    return "c_" + name.encode().hex()


def _arguments(model: onnx.ModelProto, node: onnx.NodeProto) -> tuple[tuple[str, ...], Attributes, str]:
    """Names of a call's tensors, its attributes, and the name of its result."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type not in LISTED or len(node.input) < 2:
        return tuple(node.input), attributes, node.output[0]
    [values] = evaluate(model, [node.input[1]])
    return (node.input[0],), {**attributes, LISTED[node.op_type]: [int(v) for v in values]}, node.output[0]


def _operator(node: onnx.NodeProto) -> Callable[..., Tensor]:
    if node.op_type not in OPERATORS:
        raise SpaceError(
            "deploy.runtime", f"torch cannot run the operator {node.op_type}", node.op_type,
            "Use onnxruntime, or add it to harness/runtimes/torch.py.",
        )  # fmt: skip
    return OPERATORS[node.op_type]


def _padded(x: Tensor, pads: list[int] | None, value: float = 0.0) -> tuple[Tensor, list[int]]:
    """The input, and the padding that is left for the operator. ONNX lists all begins, then all ends; if they differ,
    the input is padded here, since torch operators pad both sides equally."""
    if not pads:
        return x, [0] * (x.ndim - 2)
    half = len(pads) // 2
    if pads[:half] == pads[half:]:
        return x, list(pads[:half])
    sides = [p for i in reversed(range(half)) for p in (pads[i], pads[half + i])]
    return F.pad(x, sides, value=value), [0] * half


def _conv(x: Tensor, w: Tensor, b: Tensor | None = None, **a: Any) -> Tensor:
    x, pad = _padded(x, a.get("pads"))
    call = F.conv2d if x.ndim == 4 else F.conv1d
    ones = [1] * (x.ndim - 2)
    return call(x, w, b, a.get("strides", ones), pad, a.get("dilations", ones), a.get("group", 1))


def _gemm(x: Tensor, w: Tensor, c: Tensor | None = None, **a: Any) -> Tensor:
    x, w = (x.T if a.get("transA") else x), (w.T if a.get("transB") else w)
    product = a.get("alpha", 1.0) * (x @ w) if a.get("alpha", 1.0) != 1.0 else x @ w
    return product if c is None else product + a.get("beta", 1.0) * c if a.get("beta", 1.0) != 1.0 else product + c


def _max_pool(x: Tensor, **a: Any) -> Tensor:
    x, pad = _padded(x, a.get("pads"), -float("inf"))
    return F.max_pool2d(x, a["kernel_shape"], a.get("strides", 1), pad, 1, bool(a.get("ceil_mode")))


def _average_pool(x: Tensor, **a: Any) -> Tensor:
    _, pad = _padded(x, a.get("pads"))
    count = bool(a.get("count_include_pad"))
    return F.avg_pool2d(x, a["kernel_shape"], a.get("strides", 1), pad, bool(a.get("ceil_mode")), count)


def _reduce_mean(x: Tensor, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
    return x.mean(dim=axes, keepdim=bool(keepdims))


def _reshape(x: Tensor, shape: list[int], allowzero: int = 0) -> Tensor:
    return x.reshape([x.shape[i] if side == 0 and not allowzero else side for i, side in enumerate(shape)])


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None, **a: Any) -> Tensor:
    return torch.clamp(x, low if low is not None else a.get("min"), high if high is not None else a.get("max"))


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Conv": _conv,
    "DequantizeLinear": lambda x, *scales, **a: x,
    "Div": torch.div,
    "Flatten": lambda x, axis=1: x.flatten(axis),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: torch.clamp(alpha * x + beta, 0, 1),
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "MatMul": torch.matmul,
    "MaxPool": _max_pool,
    "Mul": torch.mul,
    "QuantizeLinear": lambda x, *scales, **a: x,
    "ReduceMean": _reduce_mean,
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Sigmoid": torch.sigmoid,
    "Softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "Sub": torch.sub,
    "Transpose": lambda x, perm: x.permute(perm),
}


def _load(path: Path, threads: int, device: str, compiled: bool) -> Loaded:
    if device == "cuda" and not torch.cuda.is_available():
        raise SpaceError("deploy.runtime", "torch sees no GPU here", "torch-cuda", "Use torch.")
    torch.set_num_threads(threads)
    model = onnx.load(str(path))
    graph = Graph(model).eval().to(device)
    call = torch.compile(graph) if compiled else graph

    @torch.inference_mode()
    def run(x: Tensor) -> Tensor:
        logits = call(x)
        if device == "cuda":
            torch.cuda.synchronize()
        return logits

    kernels = [Layer(n.name, f"{n.op_type} float32", False) for n in graph.calls if n.op_type in WEIGHTED_KERNELS]
    return Loaded(
        graph.shape,
        run,
        prepare=lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(device),
        output=lambda logits: logits.cpu().numpy(),
        layers=lambda: kernels,
    )


def eager(path: Path, threads: int) -> Loaded:
    """PyTorch on the CPU, eager."""
    return _load(path, threads, "cpu", compiled=False)


def compiled(path: Path, threads: int) -> Loaded:
    """PyTorch on the CPU through torch.compile (needs a C++ compiler)."""
    return _load(path, threads, "cpu", compiled=True)


def cuda(path: Path, threads: int) -> Loaded:
    """PyTorch on a GPU; input and output stay there during timing."""
    return _load(path, threads, "cuda", compiled=False)


def cuda_compiled(path: Path, threads: int) -> Loaded:
    """PyTorch on a GPU through torch.compile."""
    return _load(path, threads, "cuda", compiled=True)
