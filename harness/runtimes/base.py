"""Loading an exported file on a runtime. Imports torch only if a torch runtime is named.

A runtime is a function ``(path, threads) -> Loaded``. To use your own, name it in the recipe:
``deploy: {runtime: "package.module:function"}``.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message

from harness.errors import SpaceError, TrialError
from harness.export import packed
from harness.methods import load_own, nearest

# ONNX operators that multiply by weights.
WEIGHTED_KERNELS = {
    "Conv",
    "FusedConv",
    "ConvTranspose",
    "Gemm",
    "FusedGemm",
    "MatMul",
    "FusedMatMul",
    "NhwcFusedConv",
}


@dataclass(frozen=True)
class Layer:
    """How the runtime computes one weighted layer.

    kernel   its operator or primitive, as the runtime names it
    integer  whether it multiplies integers (if not, low bits only make the file smaller)
    """

    name: str
    kernel: str
    integer: bool


@dataclass(frozen=True)
class Loaded:
    """A file that is ready to run.

    prepare  raw samples (B, ...) float32 -> the input of ``run`` (on a GPU runtime: already in GPU memory)
    run      computes, and returns only when the result is complete
    output   the result of ``run`` -> logits (B, C)
    shape    of one sample; a dynamic side is given by its name
    layers   returns how each weighted layer is computed; called only when needed
    options  the runtime's options for exact integers on this machine; deployment must set them too
    """

    shape: tuple[int, ...]
    run: Callable[[Any], Any]
    prepare: Callable[[np.ndarray], Any] = field(default=lambda x: x)
    output: Callable[[Any], np.ndarray] = field(default=np.asarray)
    layers: Callable[[], list[Layer]] = field(default=list)
    options: dict[str, str] = field(default_factory=dict)

    def logits(self, x: np.ndarray, batch: int = 256) -> np.ndarray:
        """Outputs (N, C) for raw inputs (N, ...), float32, in batches.

        Raises:
            TrialError: the samples do not have the file's input shape.
        """
        sample_shape = x.shape[1:]
        expected = [side if isinstance(side, int) else None for side in self.shape]  # None: any
        if len(sample_shape) != len(expected) or any(
            w not in (None, g) for w, g in zip(expected, sample_shape, strict=True)
        ):
            raise TrialError(f"the file takes samples of shape {self.shape}, but the data have {sample_shape}")
        parts = [self.output(self.run(self.prepare(x[i : i + batch]))) for i in range(0, len(x), batch)]
        return np.concatenate(parts)


def load(runtime: str, path: Path, threads: int = 1) -> Loaded:
    """Load the file ``path`` on the named runtime.

    Raises:
        SpaceError: the file does not exist, is no ONNX model, refers to other files, or cannot be loaded by
            the runtime; or the runtime is not installed.
    """
    from harness.runtimes import RUNTIMES

    if runtime not in RUNTIMES and ":" not in runtime:
        raise SpaceError("deploy.runtime", "unknown name", runtime, nearest(runtime, RUNTIMES))
    is_own = runtime not in RUNTIMES
    function = load_own(runtime, "deploy.runtime") if is_own else RUNTIMES[runtime].load()
    refuse_external_data(path, packed.load(path))
    with _plain(path) as file:
        return _loaded(function, runtime, file, threads)


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """The file as plain ONNX: ``path`` itself, or a temporary unpacked file that is deleted on exit."""
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
    except (Exception, SystemExit) as error:  # runtimes raise unrelated exception types
        raise SpaceError(str(path), f"{runtime} cannot load the file ({type(error).__name__}: {error})") from None


_INSTALL = "`harness doctor` lists what each runtime lacks."


def refuse_external_data(path: Path, model: onnx.ModelProto) -> None:
    """Refuse a model of which a tensor, in any of its graphs, refers to another file (CVE-2026-27489).

    Raises:
        SpaceError: it has such a tensor. Exported files never do.
    """
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
