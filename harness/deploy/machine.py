"""What this machine is: processor, memory, GPUs, versions. Imports no torch."""

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

ISA_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Processor, instruction sets, memory and versions; ``host`` is a fingerprint of the hardware."""
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
        "onnx": onnx.__version__,
        "numpy": np.__version__,
        "host": hashlib.sha256(text.encode()).hexdigest()[:12],
    }


def _processor() -> tuple[str, set[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    pairs = (line.split(":", 1) for line in reversed(lines) if ":" in line)  # the first core's come last
    found = {name.strip(): value.strip() for name, value in pairs}
    flags = found.get("flags") or found.get("Features") or ""
    return found.get("model name") or platform.machine(), set(flags.split())


def peak_memory_mib() -> float:
    """The most memory that this process ever held (its resident set), in MiB.

    Linux's own count of the program that runs now: ``ru_maxrss`` would keep what the parent held
    when it forked.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return round(int(status.split("VmHWM:")[1].split()[0]) / 2**10, 1)
    except (OSError, IndexError):
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)  # macOS counts bytes


def gpus() -> list[dict[str, Any]]:
    """Name and memory of each NVIDIA GPU that the driver shows; empty where there is none."""
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
