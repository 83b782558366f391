"""Student and teacher families: ``build(input_shape, classes, **options) -> nn.Module``.

Input: the shape of a sample, the number of classes and options. Output: a module with initial weights. Nothing here
trains. A new family is one function and one line in ``MODELS``.
"""

from __future__ import annotations

from harness.methods import Method, Param

_HERE = "harness.models"

MODELS = {
    "mlp": Method(f"{_HERE}.mlp:mlp", {"hidden": Param(list, [128], low=1, doc="neurons per hidden layer")}),
    "lenet5": Method(
        f"{_HERE}.lenet5:lenet5",
        {
            "width": Param(float, 1.0, low=0, low_open=True, high=16, doc="multiplier of the channels"),
        },
    ),
    "convnet": Method(
        f"{_HERE}.convnet:convnet",
        {
            "width": Param(int, 16, low=1, high=4096, doc="channels of stage 1; each stage doubles them"),
            "stages": Param(int, 2, low=1, high=5, doc="convolutions, each of which halves the image"),
            "norm": Param(str, "batch", choices=("batch", "none"), doc="after each convolution"),
        },
    ),
    "resnet": Method(
        f"{_HERE}.resnet:resnet",
        {
            "depth": Param(int, 20, choices=(8, 14, 20, 32, 44, 56), doc="layers with weights, 6n + 2"),
            "width": Param(int, 16, low=1, high=1024, doc="channels of stage 1; each stage doubles them"),
        },
    ),
}
