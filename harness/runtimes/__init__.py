"""What loads an exported file and runs it, one runtime a module.

A runtime comes in by its name in ``deploy.runtime`` and the path of a file, and gives a ``Loaded``
(:mod:`harness.runtimes.base`). Nothing here trains, times or decides. To add a runtime: a function
``(path, threads) -> Loaded`` in a module of its own, and a line in ``RUNTIMES``. Where it folds packed streams into
constants when it loads a file, add its name to ``harness.export.export.UNFOLD`` too.
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
