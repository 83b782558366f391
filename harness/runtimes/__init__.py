"""Runtimes, which load and run an exported file; one module each.

Input: a runtime's name (``deploy.runtime``) and the path of a file. Output: :class:`harness.runtimes.base.Loaded`.
Nothing here trains, times or decides. To add a runtime, write a function ``(path, threads) -> Loaded`` in its own
module and add a line to ``RUNTIMES``. If the runtime folds packed streams into constants when it loads a file, also
add its name to ``harness.export.export.UNFOLD``.
"""

from __future__ import annotations

from harness.methods import Method

_HERE = "harness.runtimes"

RUNTIMES = {
    "onnxruntime": Method(f"{_HERE}.onnxruntime:cpu"),
    "onnxruntime-cuda": Method(f"{_HERE}.onnxruntime:cuda"),
    "openvino": Method(f"{_HERE}.openvino:cpu"),
    "torch": Method(f"{_HERE}.torch:eager"),
    "torch-compiled": Method(f"{_HERE}.torch:compiled"),
    "torch-cuda": Method(f"{_HERE}.torch:cuda"),
    "torch-cuda-compiled": Method(f"{_HERE}.torch:cuda_compiled"),
}
