"""This machine: processor, memory, GPUs, versions, and whether its integer sums are exact. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import psutil
from onnx import TensorProto, helper, numpy_helper

from harness.machine import onnx_session

ISA_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Processor, instruction sets, memory, versions and onnxruntime's session options on this machine; ``host`` is a
    fingerprint of the hardware."""
    model, flags = _processor()
    hardware = {
        "cpu_model": model,
        "cores": os.cpu_count() or 1,
        "isa": [f for f in ISA_FLAGS if f in flags],
        "machine": platform.machine(),
        "ram_gib": round(psutil.virtual_memory().total / 2**30),
    }
    text = f"{platform.node()} {sorted(hardware.items(), key=str)}"
    return {
        **hardware,
        "os": platform.system(),
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "session_options": session_options(),
        "onnx": onnx.__version__,
        "numpy": np.__version__,
        "host": hashlib.sha256(text.encode()).hexdigest()[:12],
    }


@lru_cache(maxsize=1)
def session_options() -> dict[str, str]:
    """The session options that onnxruntime needs on this machine for exact integers
    (:mod:`harness.machine.onnx_session`)."""
    return onnx_session.exact(probe())


def saturates() -> bool:
    """Whether sums of products of unsigned and signed bytes saturate on this machine with default options."""
    return bool(session_options())


def probe() -> bytes:
    """An ONNX model with one convolution and one matrix product of bytes. For an input of ones all outputs are 1, or
    about 0.5 on machines where the sum of two products saturates at 16 bits."""
    weight = np.full((8, 8), 127, np.int8)
    tensors = {
        "scale": np.asarray(1 / 255, np.float32),
        "zero": np.asarray(0, np.uint8),
        "step": np.full(8, 1 / (8 * 127), np.float32),
        "kernel": weight.reshape(8, 8, 1, 1),
        "matrix": weight,
        "zeros_k": np.zeros(8, np.int8),
        "zeros_m": np.zeros(8, np.int8),
    }
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["bytes"]),
        node("DequantizeLinear", ["bytes", "scale", "zero"], ["image"]),
        node("DequantizeLinear", ["kernel", "step", "zeros_k"], ["kernel_f"], axis=0),
        node("Conv", ["image", "kernel_f"], ["made"]),
        node("QuantizeLinear", ["made", "scale", "zero"], ["made_bytes"]),
        node("DequantizeLinear", ["made_bytes", "scale", "zero"], ["convolved"]),
        node("Flatten", ["bytes"], ["flat"]),
        node("DequantizeLinear", ["flat", "scale", "zero"], ["vector"]),
        node("DequantizeLinear", ["matrix", "step", "zeros_m"], ["matrix_f"], axis=0),
        node("Gemm", ["vector", "matrix_f"], ["multiplied"], transB=1),
    ]
    shapes = {"x": ["b", 8, 1, 1], "convolved": ["b", 8, 1, 1], "multiplied": ["b", 8]}
    x, *outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    constants = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    graph = helper.make_graph(nodes, "probe", [x], outputs, initializer=constants)
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def _processor() -> tuple[str, set[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    pairs = (line.split(":", 1) for line in reversed(lines) if ":" in line)  # the first core's values win
    fields = {name.strip(): value.strip() for name, value in pairs}
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name") or platform.machine(), set(flags.split())


def peak_memory_mib() -> float:
    """The peak resident set of this process, in MiB.

    On Linux it is VmHWM, because ``ru_maxrss`` includes the parent's memory at the time of the fork.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return round(int(status.split("VmHWM:")[1].split()[0]) / 2**10, 1)
    except (OSError, IndexError):
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)  # macOS counts bytes


def gpus() -> list[dict[str, Any]]:
    """Name and memory of each NVIDIA GPU that the driver shows; empty if there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [
            {
                "name": str(pynvml.nvmlDeviceGetName(h)),
                "memory_gib": round(int(pynvml.nvmlDeviceGetMemoryInfo(h).total) / 2**30),
            }
            for h in handles
        ]
    finally:
        pynvml.nvmlShutdown()
