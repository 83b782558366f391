"""From a trained student to ``model.onnx``: fold, quantize, pack, write, and check.

    template + weights -> fold BatchNorm -> quantize / dequantize pairs -> narrow storage -> bytes

Scales and integers are the trained ones; nothing is calibrated or rounded here. The file therefore computes
the same as the simulated quantization in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from torch import nn

from harness.errors import TrialError
from harness.export import facts
from harness.export.graph import build_graph
from harness.export.packed import pack
from harness.export.template import Template, Templates, per_channel
from harness.files.access import write_bytes_durably
from harness.machine.host import session_options
from harness.machine.onnx_session import open_session
from harness.recipe import Deploy
from harness.records import Artifact, describe_file
from harness.train.fit import Trained

DIVERGED = 1e6  # a larger weight means that training diverged: then a mismatch is not the exported graph's fault
# Runtimes that fold packed streams and gaps into constants when they load a file.
UNFOLD = frozenset({"onnxruntime", "onnxruntime-cuda", "torch", "torch-compiled", "torch-cuda", "torch-cuda-compiled"})
REUSE_TOLERANCE = 1e-3  # share of the largest logit by which graph and module may differ: above float32 rounding,
# below what a wrong graph does


@dataclass(frozen=True)
class Export:
    """A written file, the key of the graph that its runtime runs, and the bytes after each compression step."""

    artifact: Artifact
    structure: str
    waterfall: dict[str, int]


def structure_key(model: onnx.ModelProto) -> str:
    """Key of the graph that the runtime runs: a hash of operators, attributes, tensor shapes and types, not values.

    ``model`` must be the wide one (int8 and float32 tensors). Models with equal keys have equal latency on one
    machine.
    """
    tensors = {t.name: (list(t.dims), t.data_type) for t in model.graph.initializer}
    parts = [
        (
            n.op_type,
            [tensors.get(i, i) for i in n.input],
            list(n.output),
            [a.SerializeToString(deterministic=True).hex() for a in n.attribute],
        )
        for n in model.graph.node
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def to_bytes(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def export(
    trained: Trained,
    templates: Templates,
    path: Path,
    input_shape: tuple[int, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    unpruned: nn.Module | None = None,
    deploy: Deploy | None = None,
    task: Mapping[str, str] | None = None,
) -> Export:
    """Write ``path`` durably: the smallest of the wide file, the narrow one, and the narrow one of INT4 and INT8 only.

    In a small network a stream of bits may save less than the 300 bytes of its operators; then the last is smallest.

    Args:
        unpruned: the student before removal, for the first step of the waterfall.
        deploy: its runtime decides which containers are allowed (default: plain ONNX for onnxruntime). With the
            format ``packed``, the files are compared after coding.
        task: entries of the file's metadata that follow from the data (:mod:`harness.export.facts`).
    Raises:
        TrialError: a graph exported from this module does not reproduce it, or training diverged.
    """
    module, deploy = trained.module, deploy or Deploy()
    template = _template(templates, module, input_shape, mean, std)
    plain = build_graph(template, module, None, sparse=False)
    wide = build_graph(template, module, trained.quantized, trained.sparse, narrow=False)
    narrow = [
        build_graph(template, module, trained.quantized, trained.sparse, narrow=True, unfolds=unfolds)
        for unfolds in sorted({False, deploy.runtime in UNFOLD})
    ]
    full = plain if unpruned is None else build_graph(template, unpruned.cpu().eval(), None, sparse=False)
    structure = structure_key(wide)
    if deploy.metadata == "short":
        for model in (full, plain, wide, *narrow):
            facts.describe(model, task or {})
    files = [to_bytes(model) for model in (*narrow, wide)]
    data = min([pack(f) for f in files] if deploy.format == "packed" else files, key=len)
    write_bytes_durably(path, data)
    waterfall = {
        "fp32": full.ByteSize(),
        "pruned": plain.ByteSize(),
        "quantized": wide.ByteSize(),
        "file": len(data),
    }
    return Export(describe_file(path, deploy.format), structure, waterfall)


def _template(
    templates: Templates,
    module: nn.Module,
    input_shape: tuple[int, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Template:
    for exact in (False, True):
        template = templates.get(module, input_shape, mean, std, exact)
        if _reproduces(template, module, mean, std):
            return template
    floats = [v for v in module.state_dict().values() if v.is_floating_point() and v.numel()]
    largest = max((float(v.abs().nan_to_num(torch.inf).max()) for v in floats), default=0.0)
    if largest > DIVERGED:
        raise TrialError(
            f"diverged: the student's largest weight or statistic is {largest:.3g}, so float32 cannot reproduce its "
            "outputs. Lower train.lr or clip the gradients."
        )
    raise TrialError(
        "the exported graph does not reproduce the module's outputs in float32. Is its forward "
        "pass free of randomness and of branches on the data?"
    )


@torch.no_grad()
def _reproduces(template: Template, module: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> bool:
    """Whether the float32 graph computes the module's logits on random inputs."""
    x = torch.randn(3, *template.input_shape, generator=torch.Generator().manual_seed(0))
    center, spread = (torch.from_numpy(per_channel(v, template.input_shape)) for v in (mean, std))
    want = module(x).numpy()
    try:
        data = to_bytes(build_graph(template, module, None, sparse=False))
        [got] = open_session(data, session_options()).run(None, {"input": (x * spread + center).numpy()})
        got = np.asarray(got)
    except (RuntimeError, ValueError, KeyError, TypeError, Fail):
        return False
    scale = float(np.abs(want).max()) or 1.0
    return got.shape == want.shape and float(np.abs(got - want).max()) <= REUSE_TOLERANCE * scale
