"""onnxruntime, on the CPU and on a GPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from harness.machine import host
from harness.machine.onnx_session import open_session
from harness.runtimes.base import WEIGHTED_KERNELS, Layer, Loaded

INTEGER = {
    "QLinearConv",
    "QGemm",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
}


def cpu(path: Path, threads: int) -> Loaded:
    """onnxruntime on the CPU."""
    model = path.read_bytes()  # ``layers`` needs it later, when an unpacked temporary file is gone
    session = open_session(model, host.session_options(), threads)
    return _loaded(session, lambda: weighted_layers(model))


def cuda(path: Path, threads: int) -> Loaded:
    """onnxruntime's CUDA provider; inputs and outputs stay on the GPU during timing."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise ImportError("this onnxruntime has no CUDA provider: install onnxruntime-gpu in its place")
    session = open_session(path.read_bytes(), host.session_options(), threads, "CUDAExecutionProvider")
    [model_input] = session.get_inputs()
    [model_output] = session.get_outputs()

    def prepare(x: np.ndarray) -> Any:
        binding = session.io_binding()
        binding.bind_ortvalue_input(
            model_input.name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x), "cuda", 0)
        )
        binding.bind_output(model_output.name, "cuda")
        return binding

    def run(binding: Any) -> Any:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return binding

    return Loaded(tuple(model_input.shape[1:]), run, prepare, lambda binding: binding.copy_outputs_to_cpu()[0])


def _loaded(session: ort.InferenceSession, layers: Callable[[], list[Layer]]) -> Loaded:
    [model_input] = session.get_inputs()
    return Loaded(
        tuple(model_input.shape[1:]),
        run=lambda feed: session.run(None, feed),
        prepare=lambda x: {model_input.name: x},
        output=lambda outputs: np.asarray(outputs[0]),
        layers=layers,
        options=host.session_options(),
    )


def operators(model: bytes) -> list[tuple[str, str]]:
    """(node, operator) of every kernel that ran in one inference, from onnxruntime's profile."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, host.session_options(), profile=Path(folder) / "profile")
        [model_input] = session.get_inputs()
        session.run(None, {model_input.name: np.zeros([1, *model_input.shape[1:]], np.float32)})
        events = json.loads(Path(session.end_profiling()).read_bytes())
    ran = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    return [(e["name"].removesuffix("_kernel_time"), e["args"]["op_name"]) for e in ran]


def weighted_layers(model: bytes) -> list[Layer]:
    """The weighted layers among :func:`operators`."""
    ran = operators(model)
    return [Layer(name, kernel, kernel in INTEGER) for name, kernel in ran if kernel in WEIGHTED_KERNELS | INTEGER]
