"""Forms of a network's forward pass, for one student and for K students side by side.

    forward(params, buffers, ranges, x, training, watch) -> (quantities, new buffers)

``quantities`` holds the logits and, for every name in ``watch``, the input of the module at its path.

plain    calls the module itself
stacked  reads the module's graph once and computes each operator once for all K students: convolutions as one grouped
         convolution over (N, K*C, H, W), linear layers as one batched product over (K, N, F), batch norm over K*C
         channels. It is not available for networks with other operators
mapped   maps the module over the students with ``torch.vmap``: works for any network, but is slower

All forms give the result of a single student for each lane; lanes do not mix.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call

from harness.models.add import Add
from harness.models.seeding import draws
from harness.techniques import activations
from harness.train.quantization_points import Ranges, has_point, quantized_activations, ties, watched

Tensors = dict[str, Tensor]
Watch = Mapping[str, str]  # name in ``quantities`` -> path of the module whose first input it is
NOTHING: Watch = {}
Forward = Callable[..., tuple[Tensors, Tensors]]

ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Identity)
PER_CHANNEL = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
SUMS = (operator.add, operator.iadd, torch.add)
ACTIVATIONS = (F.relu, torch.relu)


def plain(module: nn.Module) -> Forward:
    """Form for one student that calls the module itself."""
    tied = ties(module)

    def forward(
        params: Tensors, buffers: Tensors, ranges: Ranges, x: Tensor, training: bool, watch: Watch = NOTHING
    ) -> tuple[Tensors, Tensors]:
        buffers = {name: b.clone() for name, b in buffers.items()}
        tensors = {**params, **buffers}
        tensors |= {name: tensors[first] for name, first in tied.items()}
        module.train(training)
        with watched(module, watch) as watched_inputs, quantized_activations(module, ranges):
            # tie_weights=True would also tie two names of one module, and then lose its tensors
            logits = functional_call(module, tensors, (x,), tie_weights=False)
        return {"logits": logits, **watched_inputs}, buffers

    return forward


def single(module: nn.Module) -> Forward:
    """Form for one student with the least overhead."""
    return stacked(module) or plain(module)


def mapped(module: nn.Module) -> Forward:
    """Form for K students of any network. Every tensor has a leading dimension K."""
    one = plain(module)

    def forward(
        params: Tensors, buffers: Tensors, ranges: Ranges, x: Tensor, training: bool, watch: Watch = NOTHING
    ) -> tuple[Tensors, Tensors]:
        def lane(p: Tensors, b: Tensors, r: Ranges, samples: Tensor) -> tuple[Tensors, Tensors]:
            return one(p, b, r, samples, training, watch)

        return torch.vmap(lane, randomness="different")(params, buffers, ranges, x)

    return forward


@dataclass(frozen=True)
class _Call:
    """One node of the graph: an operator and the names of its inputs."""

    kind: str  # conv, linear, norm, flatten, elementwise, pool, sum
    name: str
    inputs: tuple[str, ...]
    path: str = ""
    module: nn.Module | None = None
    points: tuple[str, ...] = ()


def stacked(module: nn.Module, lanes: int = 0) -> Forward | None:
    """Form that computes each operator once for ``lanes`` students; x is (K, N, *shape).

    With ``lanes`` 0 it is for one student, without the dimension K, and avoids the module's Python overhead. None if
    the network contains an unknown operator.
    """
    calls = _read(module)
    if calls is None:
        return None
    *body, last = calls

    def forward(
        params: Tensors, buffers: Tensors, ranges: Ranges, x: Tensor, training: bool, watch: Watch = NOTHING
    ) -> tuple[Tensors, Tensors]:
        values, new_buffers, watched_inputs = {"input": x}, dict(buffers), {}
        for call in body:
            inputs = [values[name] for name in call.inputs]
            watched_inputs |= {
                name: _lanes_first(inputs[0], lanes) for name, path in watch.items() if path == call.path
            }
            if ranges:
                points = (*call.points, *[""] * len(inputs))
                inputs = [
                    _rounded(v, lanes, ranges[p]) if p in ranges else v for v, p in zip(inputs, points, strict=False)
                ]
            values[call.name] = _OPERATORS[call.kind](call, inputs, lanes, params, new_buffers, training)
        return {"logits": values[last.inputs[0]], **watched_inputs}, new_buffers

    return forward


def _lanes_first(x: Tensor, lanes: int) -> Tensor:
    """View (N, K*C, H, W) as (K, N, C, H, W)."""
    return x.unflatten(1, (lanes, -1)).transpose(0, 1) if lanes and x.dim() == 4 else x


_TRACING = threading.Lock()  # while torch.fx traces, it patches modules for all threads of the process
_GRAPHS: weakref.WeakKeyDictionary[nn.Module, list[_Call] | None] = weakref.WeakKeyDictionary()


def _read(module: nn.Module) -> list[_Call] | None:
    """The graph as calls; None if a node is unknown. Cached per module."""
    with _TRACING:
        if module not in _GRAPHS:
            _GRAPHS[module] = _traced(module)
        return _GRAPHS[module]


def _traced(module: nn.Module) -> list[_Call] | None:
    if ties(module):
        return None
    graphs: list[fx.Graph] = []
    try:
        drawn = draws(lambda: graphs.append(_Leaves().trace(module)))
    except Exception:  # data-dependent control flow cannot be traced: the mapped form is used
        return None
    if drawn:  # random numbers drawn during tracing would be constants in the graph
        return None
    calls = []
    for node in graphs[0].nodes:
        call = _call(node, module)
        if call is None:
            return None
        if call.kind != "input":
            calls.append(call)
    return calls


class _Leaves(fx.Tracer):
    """Does not trace into modules that the stacked form knows."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Add) or super().is_leaf_module(m, module_qualified_name)


def _summands(names: tuple[str, ...]) -> tuple[str, ...]:
    """Both inputs of a sum. torch.fx lists an input that is added to itself only once."""
    return names if len(names) == 2 else (names[0], names[0])


def _call(node: fx.Node, module: nn.Module) -> _Call | None:
    names = tuple("input" if n.op == "placeholder" else n.name for n in node.all_input_nodes)
    if node.op == "placeholder":
        return _Call("input", "input", ())
    if node.op == "output":
        return _Call("output", node.name, names) if len(names) == 1 else None
    if node.op == "call_function":
        plain_sum = node.target in SUMS and len(node.args) == 2 and not node.kwargs and len(names) in (1, 2)
        if plain_sum and all(isinstance(a, fx.Node) for a in node.args):
            return _Call("sum", node.name, _summands(names))
        if node.target in ACTIVATIONS:
            return _Call("elementwise", node.name, names, module=nn.ReLU())
        flat = node.target is torch.flatten and node.args[1:] == (1,)
        return _Call("flatten", node.name, names) if flat else None
    if node.op == "call_method":
        return _Call("flatten", node.name, names) if node.target == "flatten" and node.args[1:] == (1,) else None
    if node.op != "call_module":
        return None
    path = str(node.target)
    leaf = module.get_submodule(path)
    kind = _kind(leaf)
    points = (f"{path}.0", f"{path}.1") if kind == "sum" else (path,) if has_point(leaf) else ()
    return _Call(kind, node.name, _summands(names) if kind == "sum" else names, path, leaf, points) if kind else None


def _kind(leaf: nn.Module) -> str:
    if isinstance(leaf, nn.Conv2d):
        return "conv" if leaf.padding_mode == "zeros" else ""
    if isinstance(leaf, nn.BatchNorm2d):
        tracked = leaf.track_running_stats and leaf.affine and leaf.momentum is not None
        return "norm" if tracked else ""
    if isinstance(leaf, nn.Flatten):
        return "flatten" if (leaf.start_dim, leaf.end_dim) == (1, -1) else ""
    kinds = {
        nn.Linear: "linear",
        Add: "sum",
        **dict.fromkeys(ELEMENTWISE, "elementwise"),
        **dict.fromkeys(PER_CHANNEL, "pool"),
    }
    return kinds.get(type(leaf), "")


def _rounded(x: Tensor, lanes: int, parameters: tuple[Tensor, ...]) -> Tensor:
    """Fake-quantize an activation, each lane with its own scale, zero point and largest integer (K,)."""
    if not lanes:
        return activations.rounded(x, *parameters)
    if x.dim() == 4:
        each = x.shape[1] // lanes
        return activations.rounded(x, *(t.repeat_interleave(each).reshape(1, -1, 1, 1) for t in parameters))
    return activations.rounded(x, *(t.reshape(-1, *[1] * (x.dim() - 1)) for t in parameters))


def _image(x: Tensor) -> Tensor:
    """Convert (K, N, C, H, W) to (N, K*C, H, W), channels last in memory; a 4-d tensor is returned as it is.

    In this layout the grouped convolution of a small network takes 0.2 to 0.9 times as long on a CPU core.
    """
    return x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last) if x.dim() == 5 else x


def _channels_last(weight: Tensor) -> Tensor:
    """One student's kernel (O, I, H, W), on a CPU channels last in memory; then the convolution and the operators after
    it keep that layout."""
    return weight.to(memory_format=torch.channels_last) if weight.device.type == "cpu" else weight


class _ChannelsLast(torch.autograd.Function):
    """Identity whose gradient is channels last in memory. A pool's gradient is not, and then the backward pass of batch
    norm takes 3 to 10 times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous(memory_format=torch.channels_last)


def _conv(call: _Call, inputs: list[Tensor], lanes: int, params: Tensors, _: Tensors, training: bool) -> Tensor:
    m: Any = call.module
    weight = params[f"{call.path}.weight"]
    bias = params[f"{call.path}.bias"] if m.bias is not None else None
    x, stride = _thinned(_image(inputs[0]), m)
    if not lanes:
        return F.conv2d(x, _channels_last(weight), bias, stride, m.padding, m.dilation, m.groups)
    bias = bias if bias is None else bias.flatten()
    return F.conv2d(x, weight.flatten(0, 1), bias, stride, m.padding, m.dilation, m.groups * lanes)


def _thinned(x: Tensor, conv: nn.Conv2d) -> tuple[Tensor, tuple[int, ...]]:
    """Replace the stride of a 1 x 1 convolution by a slice of x; return the slice and the remaining stride.

    oneDNN's kernel for a strided 1 x 1 convolution (torch 2.15, a processor with AVX2 but not AVX512, channels last,
    fewer than 8 channels) writes beyond its buffers in the backward pass, which ends the process.
    """
    if tuple(conv.kernel_size) != (1, 1) or tuple(conv.padding) != (0, 0) or tuple(conv.stride) == (1, 1):
        return x, tuple(conv.stride)
    return x[:, :, :: conv.stride[0], :: conv.stride[1]], (1, 1)


def _linear(call: _Call, inputs: list[Tensor], lanes: int, params: Tensors, _: Tensors, training: bool) -> Tensor:
    m: Any = call.module
    weight = params[f"{call.path}.weight"]
    bias = params[f"{call.path}.bias"] if m.bias is not None else None
    if not lanes:
        return F.linear(inputs[0], weight, bias)
    if bias is None:
        return torch.bmm(inputs[0], weight.transpose(1, 2))
    return torch.baddbmm(bias.unsqueeze(1), inputs[0], weight.transpose(1, 2))


def _norm(call: _Call, inputs: list[Tensor], lanes: int, params: Tensors, buffers: Tensors, training: bool) -> Tensor:
    m: Any = call.module
    mean, variance = (buffers[f"{call.path}.running_{name}"] for name in ("mean", "var"))
    if training:
        mean, variance = mean.clone(), variance.clone()
        buffers[f"{call.path}.running_mean"], buffers[f"{call.path}.running_var"] = mean, variance
        buffers[f"{call.path}.num_batches_tracked"] = buffers[f"{call.path}.num_batches_tracked"] + 1
    weight, bias = (params[f"{call.path}.{name}"] for name in ("weight", "bias"))
    if lanes:
        weight, bias = weight.flatten(), bias.flatten()
    x = _image(inputs[0]) if lanes else inputs[0]
    return F.batch_norm(x, mean.view(-1), variance.view(-1), weight, bias, training, m.momentum, m.eps)


def _flatten(call: _Call, inputs: list[Tensor], lanes: int, *_: Any) -> Tensor:
    """Flatten each sample; returns (K, N, F), or (N, F) without lanes."""
    x = inputs[0]
    if not lanes:
        return x.flatten(1)
    if x.dim() == 4:
        return x.reshape(len(x), lanes, -1).transpose(0, 1)
    return x.flatten(2)


def _elementwise(call: _Call, inputs: list[Tensor], *_: Any) -> Tensor:
    assert call.module is not None
    return call.module.forward(inputs[0])


def _pool(call: _Call, inputs: list[Tensor], lanes: int, *_: Any) -> Tensor:
    assert call.module is not None
    if lanes:
        return call.module(_ChannelsLast.apply(_image(inputs[0])))
    return call.module(_ChannelsLast.apply(inputs[0]) if inputs[0].device.type == "cpu" else inputs[0])


def _sum(call: _Call, inputs: list[Tensor], *_: Any) -> Tensor:
    return inputs[0] + inputs[1]


_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "conv": _conv,
    "linear": _linear,
    "norm": _norm,
    "flatten": _flatten,
    "elementwise": _elementwise,
    "pool": _pool,
    "sum": _sum,
}
