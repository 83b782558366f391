"""What a file says of its own use: entries of the model's metadata, as short as they can be.

    range     smallest and largest raw value of an input, seen in training; the file normalizes by itself
    classes   names of the outputs, in their order; left out where they are 0, 1, 2, ...
    wrong     runtimes that load the file and compute it wrongly
    x86       the session option that onnxruntime needs on x86 without VNNI, for exact integers

Names, shapes and types of input and output are the graph's own. Entries that do not apply are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from harness.machine.onnx_session import EXACT

if TYPE_CHECKING:  # the data are torch tensors, and what reads a file must not import torch
    from harness.tasks.data import Data

EXACT_UP_TO = 64  # 2 products of a byte and such a weight fit into 16 bits: 2 * 255 * 64 = 32640


def of_task(data: Data) -> dict[str, str]:
    """The entries that follow from the data."""
    x = data.train[0]
    found = {"range": f"{float(x.min()):.4g}..{float(x.max()):.4g}"}
    numbers = tuple(str(i) for i in range(data.classes))
    return found | ({} if data.class_names in ((), numbers) else {"classes": ",".join(data.class_names)})


def of_file(model: onnx.ModelProto) -> dict[str, str]:
    """The entries that follow from the graph and its weights."""
    wrong = {"wrong": "openvino"} if has_stream(model) else {}
    return wrong | ({"x86": f"{EXACT}=1"} if may_saturate(model) else {})


def has_stream(model: onnx.ModelProto) -> bool:
    """Are weights stored as a stream of bits? OpenVINO 2026.4 gets every layer behind one wrong."""
    return any(node.op_type == "BitShift" for node in model.graph.node)


def may_saturate(model: onnx.ModelProto) -> bool:
    """Does the file hold integers so large that a sum of two products may not fit into 16 bits?"""
    stored = (numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.INT8)
    return any(is_large(values) for values in stored)


def is_large(integers: np.ndarray) -> bool:
    """Is one of them beyond what two products may have?"""
    return int(np.abs(integers.astype(np.int16)).max(initial=0)) > EXACT_UP_TO


def describe(model: onnx.ModelProto, facts: Mapping[str, str]) -> None:
    """Write ``facts`` and what the file itself shows into the model's metadata."""
    helper.set_model_props(model, {**facts, **of_file(model)})


def read(model: onnx.ModelProto) -> dict[str, str]:
    """The entries that a file carries."""
    return {entry.key: entry.value for entry in model.metadata_props}
