"""From a trained student to a file, and from the file to numbers."""

from __future__ import annotations

from harness.methods import Method

_HERE = "harness.deploy.runtimes"

# (path, threads) -> Loaded. What a runtime multiplies in integers is asked of each file: Loaded.layers.
# These fold packed streams and gaps into constants when they load a file.
UNFOLD = frozenset({"onnxruntime", "onnxruntime-cuda", "torch", "torch-compiled", "torch-cuda", "torch-cuda-compiled"})

RUNTIMES = {
    "onnxruntime": Method(f"{_HERE}:onnxruntime"),
    "onnxruntime-cuda": Method(f"{_HERE}:onnxruntime_cuda"),
    "openvino": Method(f"{_HERE}:openvino"),
    "torch": Method("harness.deploy.torch_runtime:eager"),
    "torch-compiled": Method("harness.deploy.torch_runtime:compiled"),
    "torch-cuda": Method("harness.deploy.torch_runtime:cuda"),
    "torch-cuda-compiled": Method("harness.deploy.torch_runtime:cuda_compiled"),
}
