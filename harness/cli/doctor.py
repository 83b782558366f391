"""``doctor``: what this machine has, and which uses lack something.

A child process imports torch, so that a torch that cannot be imported is reported too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from harness.files.folders import cache_folder, data_roots
from harness.machine.cores import usable_cores
from harness.machine.host import environment, gpus, saturates

INT8_KERNELS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
PARTS = ("torch", "torchvision", "torch-pruning", "onnx", "onnxscript", "onnxruntime", "ray", "optuna")
OPTIONAL = {
    "openvino": "deploy.runtime: openvino: pip install openvino",
    "optuna-dashboard": "watching a study in the browser: pip install optuna-dashboard",
}
_ASK_TORCH = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({"cuda": torch.version.cuda, "gpus": count}))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was checked, what was found, and what is missing and for which use (empty if
    nothing)."""

    name: str
    found: str
    missing: str = ""


def report() -> list[Finding]:
    """All findings: everything that a search or a training uses, whether found or missing."""
    machine = environment()
    return [
        Finding("python", f"{machine['python']} on {machine['os']} ({machine['machine']})"),
        Finding(
            "processor",
            f"{machine['cpu_model']}, {usable_cores()} of {machine['cores']} cores usable, {machine['ram_gib']} GiB",
        ),
        _instructions(machine),
        *_devices(),
        *(_package(name, "needed: install from requirements.lock") for name in PARTS),
        *(_package(name, use) for name, use in OPTIONAL.items()),
        *_folders(),
    ]


def _instructions(machine: dict[str, Any]) -> Finding:
    """The instruction sets, and whether onnxruntime's integer kernels are exact with them, by a probe."""
    instruction_sets = ", ".join(machine["isa"]) or "none of those looked for"
    if saturates():
        options = ", ".join(f"{name}={value}" for name, value in machine["session_options"].items())
        return Finding(
            "instructions",
            f"{instruction_sets}: sums of 8-bit products saturate here",
            f"no VNNI: harness sets {options} in onnxruntime and makes OpenVINO compute in float32. Integers are then "
            "exact, but gain little speed. Production on such a processor must set the same, or accuracy is lower",
        )
    if INT8_KERNELS & set(machine["isa"]):
        return Finding("instructions", f"{instruction_sets}: 8-bit dot products, sums are exact")
    return Finding(
        "instructions", f"{instruction_sets}: sums are exact", "no 8-bit dot products: int8 files gain little speed"
    )


def _devices() -> list[Finding]:
    visible_gpus, torch = gpus(), _ask_torch()
    names = ", ".join(f"{g['name']} ({g['memory_gib']} GiB)" for g in visible_gpus)
    usable = torch.get("gpus", 0)
    short = f"torch (CUDA {torch.get('cuda')}) can use {usable} of {len(visible_gpus)}"
    devices = [Finding("GPUs", names or "none: students train on the CPU", short if usable < len(visible_gpus) else "")]
    if "error" in torch:
        devices.append(Finding("torch", "cannot be imported", torch["error"]))
    return devices


def _ask_torch() -> dict[str, Any]:
    try:
        command = [sys.executable, "-c", _ASK_TORCH]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return {"error": "importing it takes more than 2 minutes"}
    if answer.returncode != 0:
        return {"error": (answer.stderr.strip().splitlines() or ["no reason given"])[-1]}
    return json.loads(answer.stdout.splitlines()[-1])


def _package(name: str, use: str) -> Finding:
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "not installed", use)


def _folders() -> list[Finding]:
    cache = cache_folder()
    parent = next(p for p in (cache, *cache.parents) if p.exists())
    missing = "" if os.access(parent, os.W_OK) else "cannot be written: set HARNESS_CACHE"
    roots = [f"{root} ({'there' if root.is_dir() else 'not there'})" for root in data_roots()]
    return [Finding("data sets", ", ".join(roots)), Finding("cache", str(cache), missing)]
