"""OpenVINO on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from harness.errors import SpaceError
from harness.export.facts import has_stream, may_saturate
from harness.machine import host
from harness.runtimes.base import Layer, Loaded

EXACT = {"LP_TRANSFORMS_MODE": "NO"}  # integers are dequantized and multiplied as float32


def cpu(path: Path, threads: int) -> Loaded:
    """OpenVINO on the CPU, tuned for latency.

    It has no exact integer kernels on processors where integer sums saturate. Files with integers so large are computed
    in float32 there.
    """
    import openvino as ov

    core = ov.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }  # f32, because float layers would otherwise run in bf16 on processors that support it
    stored = onnx.load(str(path))
    _refuse_streams(path, stored)
    exact = EXACT if host.saturates() and may_saturate(stored) else {}
    model = core.read_model(str(path))
    compiled = core.compile_model(model, "CPU", {**settings, **exact})
    request = compiled.create_infer_request()
    shape = tuple(int(d.get_length()) for d in list(model.inputs[0].partial_shape)[1:])

    def run(x: np.ndarray) -> np.ndarray:
        return request.infer([x], share_inputs=True, share_outputs=True)[0]

    return Loaded(shape, run, output=np.array, layers=lambda: _layers(compiled), options=exact)


def _refuse_streams(path: Path, model: onnx.ModelProto) -> None:
    if has_stream(model):
        raise SpaceError(
            str(path),
            "its weights are packed for onnxruntime (BitShift), which OpenVINO computes wrongly",
            remedy="Export with `deploy: {runtime: openvino}`, which stores weights as INT4 and INT8.",
        )


def _layers(compiled: Any) -> list[Layer]:
    layers = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = {k: str(v.astype(str) if hasattr(v, "astype") else v) for k, v in node.get_rt_info().items()}
        if info.get("layerType") in ("Convolution", "FullyConnected", "MatMul", "GroupConvolution"):
            primitive = info.get("primitiveType", "")
            layers.append(Layer(node.get_friendly_name(), primitive, primitive.lower().endswith(("i8", "u8"))))
    return layers
