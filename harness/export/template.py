"""A template: the exported graph of an architecture without weights, for any number of channels.

``torch.onnx.export`` takes seconds, so it runs once per architecture. The graph is then reduced to the parts that do
not depend on the number of channels, and the module path of every weighted layer is kept. Inserting weights by name
takes milliseconds.
"""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from harness.files.checksums import read_cached, write_cached
from harness.models.add import Add
from harness.train.quantization_points import has_point, is_weighted

OPSET, IR_VERSION = 21, 10
_AT_POINTS = ("Conv", "Gemm", "MatMul", "Add", "ReduceMean", "AveragePool", "GlobalAveragePool")
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Template:
    """Nodes without weights.

    paths      node output -> path of the module whose quantization point the node reads (weighted layers, sums,
               average pools). A linear layer on inputs with more than two axes is a MatMul, and its bias an Add
    constants  small tensors of the graph that belong to no layer (mean, std, axes)
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, np.ndarray]
    paths: dict[str, str]
    input_shape: tuple[int, ...]

    def to_bytes(self) -> bytes:
        tensors = [numpy_helper.from_array(v, k) for k, v in self.constants.items()]
        graph = helper.make_graph(list(self.nodes), "template", [], [], initializer=tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        helper.set_model_props(model, {"paths": json.dumps(self.paths), "shape": json.dumps(self.input_shape)})
        return model.SerializeToString(deterministic=True)

    @staticmethod
    def from_bytes(data: bytes) -> Template:
        model = onnx.load_from_string(data)
        props = {p.key: json.loads(p.value) for p in model.metadata_props}
        constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        return Template(tuple(model.graph.node), constants, props["paths"], tuple(props["shape"]))


class _Normalized(nn.Module):
    """The student with the normalization of its input in front, so that the exported file takes raw inputs."""

    input_mean: torch.Tensor
    input_std: torch.Tensor

    def __init__(self, module: nn.Module, mean: np.ndarray, std: np.ndarray):
        super().__init__()
        self.module = module
        self.register_buffer("input_mean", torch.from_numpy(mean))  # names that no operator's output has
        self.register_buffer("input_std", torch.from_numpy(std))

        self.raw = not mean.any() and bool((std == 1).all())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x if self.raw else (x - self.input_mean) / self.input_std)


def per_channel(values: tuple[float, ...], input_shape: tuple[int, ...]) -> np.ndarray:
    """Per-channel numbers, shaped to broadcast over one sample."""
    shape = (-1, *[1] * (len(input_shape) - 1)) if len(values) > 1 else ()
    return np.asarray(values, np.float32).reshape(shape)


def make_template(
    module: nn.Module, input_shape: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...]
) -> Template:
    """Export ``module`` (CPU, eval) and reduce the graph."""
    wrapped = _Normalized(module, per_channel(mean, input_shape), per_channel(std, input_shape)).eval()
    program = torch.onnx.export(
        wrapped,
        (torch.zeros(2, *input_shape),),
        dynamo=True,
        external_data=False,
        verbose=False,
        optimize=False,
        input_names=["input"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    return _reduce(program.model_proto, module, input_shape)


def _scopes(node: onnx.NodeProto) -> list[str]:
    values = [p.value for p in node.metadata_props if p.key == _SCOPES]
    return ast.literal_eval(values[0]) if values else []


@dataclass
class _Reducer:
    modules: dict[str, nn.Module]
    producers: dict[str, onnx.NodeProto]
    initializers: dict[str, np.ndarray]
    tensors: dict[str, torch.Tensor]  # the module's parameters and buffers, by their names in the graph
    shapes: dict[str, tuple[int | str, ...]]  # of the graph's tensors; a dynamic axis is given by its name
    paths: dict[str, str] = field(default_factory=dict)

    def constant(self, name: str) -> np.ndarray | None:
        """Value of a tensor that is computed from constants only, through Reshape and Cast; otherwise None."""
        if name in self.initializers:
            return self.initializers[name]
        node = self.producers.get(name)
        if node is None:
            return None
        if node.op_type == "Constant":
            return np.asarray(
                helper.get_attribute_value(node.attribute[0])
                if node.attribute[0].name != "value"
                else numpy_helper.to_array(node.attribute[0].t)
            )
        if node.op_type in ("Reshape", "Cast"):
            value = self.constant(node.input[0])
            return None if value is None else value.reshape(-1)
        return None

    def layer(self, node: onnx.NodeProto) -> str | None:
        """Path (inside the student) of the innermost module with a quantization point around the node."""
        for scope in reversed(_scopes(node)):
            path = scope.removeprefix("module").removeprefix(".")
            if scope.startswith("module") and path in self.modules and has_point(self.modules[path]):
                return next(first for first, m in self.modules.items() if m is self.modules[path])
        return None

    def rewrite(self, node: onnx.NodeProto) -> onnx.NodeProto:
        rewritten = onnx.NodeProto()
        rewritten.CopyFrom(node)
        path = self.layer(node)
        owner = self.modules.get(path or "")
        if node.op_type in _AT_POINTS and path is not None and self._at_point(node, self.modules[path]):
            self.paths[node.output[0]] = path
            if node.op_type == "MatMul":
                rewritten.input[1] = f"module.{path}.weight"  # not its transpose: the file stores it transposed
        if node.op_type == "Conv" and isinstance(owner, nn.Conv2d) and owner.bias is None:
            del rewritten.input[2:]  # the exporter makes zeros of a fixed width
        elif node.op_type == "Reshape" and self._flattens(node):
            rewritten = helper.make_node("Flatten", [node.input[0]], list(node.output), axis=1)
        elif node.op_type == "ReduceMean" and self._pools(node):
            rewritten = helper.make_node("GlobalAveragePool", [node.input[0]], list(node.output))
        return rewritten

    def _at_point(self, node: onnx.NodeProto, owner: nn.Module) -> bool:
        """Whether the node is the owner's main operation: its product, sum or average, not for example a bias sum."""
        if not is_weighted(owner):
            return isinstance(owner, Add) == (node.op_type == "Add")
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            return False
        name = node.input[1]
        turned = self.producers.get(name)
        if turned is not None and turned.op_type == "Transpose":
            name = turned.input[0]
        return self.tensors.get(name) is owner.weight

    def _flattens(self, node: onnx.NodeProto) -> bool:
        """Whether the node reshapes (batch, ...) to (batch, N) with a constant N. It is a flatten, but the constant
        would fix the number of channels."""
        shape = self.producers.get(node.input[1])
        before, after = (self.shapes.get(name, ()) for name in (node.input[0], node.output[0]))
        return (
            shape is not None
            and len(after) == 2
            and before[:1] == after[:1]
            and isinstance(after[0], str)
            and shape.op_type == "Concat"
            and len(shape.input) == 2
            and self.constant(shape.input[0]) is None
            and self.constant(shape.input[1]) is not None
        )

    def _pools(self, node: onnx.NodeProto) -> bool:
        if len(self.shapes.get(node.input[0], ())) != 4:
            return False
        axes = self.constant(node.input[1]) if len(node.input) > 1 else None
        keep = {a.name: helper.get_attribute_value(a) for a in node.attribute}.get("keepdims", 1)
        return keep == 1 and axes is not None and sorted(int(a) for a in axes) in ([-2, -1], [2, 3])


def _reduce(model: onnx.ModelProto, module: nn.Module, input_shape: tuple[int, ...]) -> Template:
    graph = model.graph
    initializers = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    producers = {out: node for node in graph.node for out in node.output}
    module_tensors = _own_tensors(module)
    modules = dict(module.named_modules(remove_duplicate=False))
    reducer = _Reducer(modules, producers, initializers, module_tensors, _shapes(graph))
    nodes = [reducer.rewrite(node) for node in graph.node]
    nodes = _alive(nodes, {o.name for o in graph.output})
    used = {name for node in nodes for name in node.input}
    constants = {k.removeprefix("module."): v for k, v in initializers.items() if k in used and k not in module_tensors}
    for node in nodes:
        del node.metadata_props[:]
        node.name, node.doc_string = "", ""
        for i, name in enumerate(node.input):
            node.input[i] = name.removeprefix("module.")
    return Template(tuple(nodes), constants, reducer.paths, input_shape)


def _own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by their names in the graph; a shared tensor is listed under all of its names."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {f"module.{name}": tensor for name, tensor in named}


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int | str, ...]]:
    values = (*graph.value_info, *graph.input, *graph.output)
    return {v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}


def _alive(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that ``outputs`` are computed from, in order."""
    alive: list[onnx.NodeProto] = []
    needed = set(outputs)
    for node in reversed(nodes):
        if needed & set(node.output):
            alive.append(node)
            needed |= set(node.input)
    return alive[::-1]


def architecture_key(
    module: nn.Module, input_shape: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...]
) -> str:
    """A hash that is equal for modules with equal reduced graphs: the same layers, at any width."""
    parts = []
    for name, part in module.named_modules():
        shape = {}
        if isinstance(part, nn.Conv2d):
            shape = {
                "kernel": part.kernel_size,
                "stride": part.stride,
                "padding": part.padding,
                "dilation": part.dilation,
                "grouped": part.groups > 1,
                "bias": part.bias is not None,
            }
        elif isinstance(part, nn.Linear):
            shape = {"bias": part.bias is not None}
        elif not list(part.children()) and not isinstance(part, nn.BatchNorm2d):
            shape = {"text": repr(part)}
        parts.append((name, f"{type(part).__module__}.{type(part).__qualname__}", shape))
    text = json.dumps([parts, input_shape, mean, std, OPSET, torch.__version__], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Templates:
    """Templates by architecture, cached in memory and in a folder that processes share."""

    def __init__(self, folder: Path):
        self._folder, self._known = folder, dict[str, Template]()

    def get(
        self,
        module: nn.Module,
        input_shape: tuple[int, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        exact: bool = False,
    ) -> Template:
        """The template of ``module``'s architecture; ``exact`` exports this module even if a template is cached."""
        key = architecture_key(module, input_shape, mean, std)
        path = self._folder / f"{key}.cached"
        if key not in self._known or exact:
            shared = None if exact else read_cached(path)
            if shared is not None:
                self._known[key] = Template.from_bytes(shared)
            else:
                self._known[key] = make_template(module, input_shape, mean, std)
                write_cached(path, self._known[key].to_bytes())
        return self._known[key]
