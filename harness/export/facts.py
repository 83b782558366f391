"""Facts about the use of a file, as short entries of the model's metadata.

    range     smallest and largest raw input value in the training data; the file itself normalizes its input
    classes   names of the outputs, in order; left out if they are 0, 1, 2, ...
    wrong     runtimes that load the file but compute wrong outputs
    x86       the session option that onnxruntime needs for exact integers on x86 without VNNI

The graph itself holds names, shapes and types of input and output. Entries that do not apply are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from harness.machine.onnx_session import EXACT

if TYPE_CHECKING:  # tasks.data imports torch; code that only reads a file must not
    from harness.tasks.data import Data

EXACT_UP_TO = 64  # largest |weight| for which the sum of 2 products with a byte fits into 16 bits: 2 * 255 * 64 = 32640


def of_task(data: Data) -> dict[str, str]:
    """The entries that follow from the data."""
    x = data.train[0]
    entries = {"range": f"{float(x.min()):.4g}..{float(x.max()):.4g}"}
    numbers = tuple(str(i) for i in range(data.classes))
    return entries | ({} if data.class_names in ((), numbers) else {"classes": ",".join(data.class_names)})


def of_file(model: onnx.ModelProto) -> dict[str, str]:
    """The entries that follow from the graph and its weights."""
    wrong = {"wrong": "openvino"} if has_stream(model) else {}
    return wrong | ({"x86": f"{EXACT}=1"} if may_saturate(model) else {})


def has_stream(model: onnx.ModelProto) -> bool:
    """Whether weights are stored as a stream of bits. OpenVINO 2026.4 computes every layer behind one wrongly."""
    return any(node.op_type == "BitShift" for node in model.graph.node)


def may_saturate(model: onnx.ModelProto) -> bool:
    """Whether the file holds integers so large that a sum of two products may not fit into 16 bits."""
    stored = (numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.INT8)
    return any(is_large(values) for values in stored)


def is_large(integers: np.ndarray) -> bool:
    """Whether an integer's absolute value is above ``EXACT_UP_TO``."""
    return int(np.abs(integers.astype(np.int16)).max(initial=0)) > EXACT_UP_TO


def describe(model: onnx.ModelProto, facts: Mapping[str, str]) -> None:
    """Write ``facts`` and the entries of :func:`of_file` into the model's metadata."""
    helper.set_model_props(model, {**facts, **of_file(model)})


def read(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata entries of a model."""
    return {entry.key: entry.value for entry in model.metadata_props}
