"""The constant part of a graph: the nodes that compute a tensor, and its value."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from harness.machine.host import session_options
from harness.machine.onnx_session import open_session


def behind(name: str, made_by: dict[str, onnx.NodeProto]) -> tuple[list[onnx.NodeProto], set[str]]:
    """All nodes that a tensor is computed from, and the names of the inputs and initializers that these start from."""
    nodes, sources, waiting, seen = [], set(), [name], set()
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        if at in made_by:
            nodes.append(made_by[at])
            waiting.extend(made_by[at].input)
        else:
            sources.add(at)
    return nodes, sources


def evaluate(model: onnx.ModelProto, names: list[str]) -> list[np.ndarray]:
    """The values of constant tensors as float32, computed by onnxruntime."""
    if not names:
        return []
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.output[:], part.graph.node[:], part.graph.input[:]
    made_by = {output: node for node in model.graph.node for output in node.output}
    needed = {id(node) for name in names for node in behind(name, made_by)[0]}
    part.graph.node.extend(node for node in model.graph.node if id(made_by[node.output[0]]) in needed)
    unique_names = list(dict.fromkeys(names))
    for name in unique_names:  # the Cast is needed because an initializer alone cannot be an output
        part.graph.node.append(helper.make_node("Cast", [name], [f"{name}/seen"], to=TensorProto.FLOAT))
        part.graph.output.append(helper.make_tensor_value_info(f"{name}/seen", TensorProto.FLOAT, None))
    session = open_session(part.SerializeToString(), session_options())
    values = dict(zip(unique_names, session.run(None, {}), strict=True))
    return [np.asarray(values[name]) for name in names]
