"""Runtimes: what loads an exported file and runs it. Imports no torch before a torch runtime is named.

A runtime is a function ``(path, threads) -> Loaded``. One of your own is named in the recipe as
``deploy: {runtime: "package.module:function"}``.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import Message

from harness.deploy import machine, packed
from harness.deploy.facts import has_stream, may_saturate
from harness.deploy.onnx_session import open_session
from harness.errors import SpaceError, TrialError
from harness.methods import load_own, nearest


@dataclass(frozen=True)
class Layer:
    """How the runtime computes one weighted layer.

    kernel   its operator or primitive, in the runtime's own words
    integer  whether it multiplies integers (otherwise low bits only make the file small)
    """

    name: str
    kernel: str
    integer: bool


@dataclass(frozen=True)
class Loaded:
    """A file that is ready to run.

    prepare  raw samples (B, ...) float32 -> what ``run`` takes (on a GPU: already there)
    run      computes, and returns when the result is there
    output   what ``run`` returned -> logits (B, C)
    shape    of one sample
    layers   how each weighted layer is computed, asked for when needed
    options  what the runtime was told so that its integers are exact on this machine; production must tell it too
    """

    shape: tuple[int, ...]
    run: Callable[[Any], Any]
    prepare: Callable[[np.ndarray], Any] = field(default=lambda x: x)
    output: Callable[[Any], np.ndarray] = field(default=np.asarray)
    layers: Callable[[], list[Layer]] = field(default=list)
    options: dict[str, str] = field(default_factory=dict)

    def logits(self, x: np.ndarray, batch: int = 256) -> np.ndarray:
        """Outputs (N, C) for raw inputs (N, ...), float32, in batches."""
        parts = [self.output(self.run(self.prepare(x[i : i + batch]))) for i in range(0, len(x), batch)]
        return np.concatenate(parts)


def load(runtime: str, path: Path, threads: int = 1) -> Loaded:
    """Load ``path`` on the runtime named.

    Raises:
        SpaceError: no such file, not an ONNX model, a model that reads other files, a runtime
            that is not installed, or a file that the runtime does not take.
    """
    from harness.deploy import RUNTIMES

    if runtime not in RUNTIMES and ":" not in runtime:
        raise SpaceError("deploy.runtime", "unknown name", runtime, nearest(runtime, RUNTIMES))
    own = runtime not in RUNTIMES
    function = load_own(runtime, "deploy.runtime") if own else RUNTIMES[runtime].load()
    refuse_external_data(path, packed.load(path))
    with _plain(path) as file:
        return _loaded(function, runtime, file, threads)


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """The file as plain ONNX: itself, or unpacked for as long as it takes to load it."""
    with open(path, "rb") as start:
        is_packed = start.read(len(packed.MAGIC)) == packed.MAGIC
    if not is_packed:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{path.stem}.onnx"
        file.write_bytes(packed.read(path))
        yield file


def _loaded(function: Callable[..., Loaded], runtime: str, path: Path, threads: int) -> Loaded:
    try:
        return function(path, threads)
    except (SpaceError, TrialError):
        raise
    except ImportError as error:
        raise SpaceError("deploy.runtime", f"{runtime!r} is not installed ({error})", runtime, _INSTALL) from None
    except (Exception, SystemExit) as error:  # every runtime raises its own unrelated types
        raise SpaceError(str(path), f"{runtime} cannot load the file ({type(error).__name__}: {error})") from None


_INSTALL = "`harness doctor` says what is missing for which runtime."


def onnxruntime(path: Path, threads: int) -> Loaded:
    """onnxruntime on the CPU."""
    model = path.read_bytes()  # kept for ``layers``: a packed file is unpacked only while it is loaded
    session = open_session(model, machine.session_options(), threads)
    return _onnxruntime(session, lambda: onnxruntime_layers(model))


def onnxruntime_cuda(path: Path, threads: int) -> Loaded:
    """onnxruntime's CUDA provider; inputs and outputs stay on the GPU while it is timed."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise ImportError("this onnxruntime has no CUDA provider: install onnxruntime-gpu in its place")
    session = open_session(path.read_bytes(), machine.session_options(), threads, "CUDAExecutionProvider")
    [given] = session.get_inputs()
    [made] = session.get_outputs()

    def prepare(x: np.ndarray) -> Any:
        binding = session.io_binding()
        binding.bind_ortvalue_input(given.name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x), "cuda", 0))
        binding.bind_output(made.name, "cuda")
        return binding

    def run(binding: Any) -> Any:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return binding

    return Loaded(tuple(given.shape[1:]), run, prepare, lambda binding: binding.copy_outputs_to_cpu()[0])


def _onnxruntime(session: ort.InferenceSession, layers: Callable[[], list[Layer]]) -> Loaded:
    [given] = session.get_inputs()
    return Loaded(
        tuple(given.shape[1:]),
        run=lambda feed: session.run(None, feed),
        prepare=lambda x: {given.name: x},
        output=lambda made: np.asarray(made[0]),
        layers=layers,
        options=machine.session_options(),
    )


EXACT_OPENVINO = {"LP_TRANSFORMS_MODE": "NO"}  # integers are dequantized and multiplied as float32


def openvino(path: Path, threads: int) -> Loaded:
    """OpenVINO on the CPU, tuned for latency. It has no exact integer kernels where sums saturate: a file whose
    integers are so large is computed in float32 there."""
    import openvino as ov

    core = ov.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }  # or float layers would run in bf16 where the processor has it
    stored = onnx.load(str(path))
    _refuse_streams(path, stored)
    exact = EXACT_OPENVINO if machine.saturates() and may_saturate(stored) else {}
    model = core.read_model(str(path))
    compiled = core.compile_model(model, "CPU", {**settings, **exact})
    request = compiled.create_infer_request()
    shape = tuple(int(d.get_length()) for d in list(model.inputs[0].partial_shape)[1:])

    def run(x: np.ndarray) -> np.ndarray:
        return request.infer([x], share_inputs=True, share_outputs=True)[0]

    return Loaded(shape, run, output=np.array, layers=lambda: _openvino_layers(compiled), options=exact)


def _refuse_streams(path: Path, model: onnx.ModelProto) -> None:
    if has_stream(model):
        raise SpaceError(
            str(path),
            "its weights are packed for onnxruntime (BitShift), which OpenVINO computes wrongly",
            remedy="Export with `deploy: {runtime: openvino}`: INT4 and INT8 are its containers.",
        )


def _openvino_layers(compiled: Any) -> list[Layer]:
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = {k: str(v.astype(str) if hasattr(v, "astype") else v) for k, v in node.get_rt_info().items()}
        if info.get("layerType") in ("Convolution", "FullyConnected", "MatMul", "GroupConvolution"):
            primitive = info.get("primitiveType", "")
            found.append(Layer(node.get_friendly_name(), primitive, primitive.lower().endswith(("i8", "u8"))))
    return found


WEIGHTED = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "NhwcFusedConv"}
INTEGER = {
    "QLinearConv",
    "QGemm",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
}


def onnxruntime_operators(model: bytes) -> list[tuple[str, str]]:
    """(node, operator) of everything that one inference ran, from onnxruntime's own profile."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, machine.session_options(), profile=Path(folder) / "profile")
        [given] = session.get_inputs()
        session.run(None, {given.name: np.zeros([1, *given.shape[1:]], np.float32)})
        events = json.loads(Path(session.end_profiling()).read_bytes())
    ran = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    return [(e["name"].removesuffix("_kernel_time"), e["args"]["op_name"]) for e in ran]


def onnxruntime_layers(model: bytes) -> list[Layer]:
    """The weighted layers among :func:`onnxruntime_operators`."""
    ran = onnxruntime_operators(model)
    return [Layer(name, kernel, kernel in INTEGER) for name, kernel in ran if kernel in WEIGHTED | INTEGER]


def refuse_external_data(path: Path, model: onnx.ModelProto) -> None:
    """A model may name other files to read (CVE-2026-27489), in any tensor of any graph in it: ours never do."""
    waiting: list[Any] = [model]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):
            if message.data_location == onnx.TensorProto.EXTERNAL or message.external_data:
                raise SpaceError(
                    str(path),
                    f"tensor {message.name!r} lies outside the file, which is refused",
                    remedy="Save the model with its weights inside (external_data=False).",
                )
            continue
        for kind, value in message.ListFields():
            if kind.message_type is not None:
                waiting += [value] if isinstance(value, Message) else value
