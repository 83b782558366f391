"""The usage part of a model card: input, output, and Python code that runs as it is."""

from __future__ import annotations

from pathlib import Path

import onnx

from harness.export import facts, packed
from harness.machine.onnx_session import EXACT
from harness.runtimes import openvino

LAYOUTS = {1: "features", 3: "channels, height, width"}
_PROVIDERS = {"onnxruntime": "CPUExecutionProvider", "onnxruntime-cuda": "CUDAExecutionProvider"}


def usage(path: Path, runtime: str, task: dict[str, str]) -> list[str]:
    """Markdown lines that describe the use of the file at ``path``.

    Args:
        runtime: the runtime that the file was exported for and scored on.
        task: the result of :func:`harness.export.facts.of_task` for the data.
    """
    model = packed.load(path)
    [model_input], [model_output] = model.graph.input, model.graph.output
    shape, classes = _shape(model_input), _shape(model_output)[0]
    layout = LAYOUTS.get(len(shape), "as the task has it")
    limits = facts.of_file(model)
    names = task.get("classes") or f"numbered 0 to {classes - 1}"
    return [
        "## Use",
        "",
        "`x.npy` holds your samples in raw units:",
        "",
        "```python",
        *_lines(path.name, runtime, model_input.name, model_output.name, shape, "x86" in limits),
        "```",
        "",
        f"- input `{model_input.name}`: float32, shape (batch, {', '.join(map(str, shape))}), that is batch, {layout}",
        f"- values: raw, {task.get('range', 'unknown')} in training. Do not scale or normalize them: normalization is "
        "inside the file, and scaled values give wrong classes without an error",
        f"- output `{model_output.name}`: float32, shape (batch, {classes}): logits before softmax; the class "
        "is the argmax",
        f"- classes: {names}",
        *_limits(limits),
    ]


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """The sizes of all axes but the batch."""
    return [d.dim_value for d in value.type.tensor_type.shape.dim][1:]


def _samples(shape: list[int]) -> str:
    """The line that reads the samples. A user's gray images may lack the axis of channels."""
    gray = len(shape) == 3 and shape[0] == 1
    return 'x = np.load("x.npy")' + (f".reshape(-1, {', '.join(map(str, shape))})" if gray else "")


def _lines(file: str, runtime: str, input_name: str, output_name: str, shape: list[int], saturates: bool) -> list[str]:
    samples = _samples(shape)
    if file.endswith(".hpk") or runtime not in (*_PROVIDERS, "openvino"):
        return [
            "import numpy as np",
            "from pathlib import Path",
            "from harness.runtimes.base import load",
            samples,
            f'logits = load("{runtime}", Path("{file}")).logits(x.astype(np.float32))',
            "classes = logits.argmax(1)",
        ]
    if runtime == "openvino":
        options = {"INFERENCE_PRECISION_HINT": "f32", **(openvino.EXACT if saturates else {})}
        return [
            "import numpy as np, openvino as ov",
            samples,
            f'compiled = ov.Core().compile_model("{file}", "CPU", {options})',
            "logits = compiled(x.astype(np.float32))[0]",
            "classes = logits.argmax(1)",
        ]
    options = ["options = ort.SessionOptions()", f'options.add_session_config_entry("{EXACT}", "1")']
    return [
        "import numpy as np, onnxruntime as ort",
        samples,
        *(options if saturates else []),
        f'session = ort.InferenceSession("{file}"{", options" if saturates else ""}, '
        f'providers=["{_PROVIDERS[runtime]}"])',
        f'logits = session.run(["{output_name}"], {{"{input_name}": x.astype(np.float32)}})[0]',
        "classes = logits.argmax(1)",
    ]


def _limits(limits: dict[str, str]) -> list[str]:
    """Warnings about runtimes that compute this file wrongly, or need an option to compute it exactly."""
    wrong = "- do not use OpenVINO: it loads the file and computes it wrongly (weights stored as a stream of bits)"
    saturating = (
        f"- x86 without VNNI: set `{EXACT}` = `1` in onnxruntime, `LP_TRANSFORMS_MODE` = `NO` in OpenVINO. Otherwise "
        "sums of integers saturate there, and accuracy falls without an error. With VNNI the sums are exact without "
        "the option, and it is faster to leave it out"
    )
    return [*([wrong] if "wrong" in limits else []), *([saturating] if "x86" in limits else [])]
