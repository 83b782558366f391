"""Opening an onnxruntime session. Bundles contain a copy of this file, for use on a device.

On x86 processors without VNNI, onnxruntime adds two products of an unsigned byte (an activation) and a
signed byte (a weight) in 16 bits. 2 * 255 * 127 saturates at 32767, and the output is wrong. The option EXACT makes
weights beyond +-64 unsigned; their products are added in 32 bits. With VNNI every sum is exact without the option,
which then only costs time. It is therefore set only where a probe saturates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

EXACT = "session.x64quantprecision"


def open_session(
    model: bytes,
    entries: dict[str, str],
    threads: int = 1,
    provider: str = "CPUExecutionProvider",
    profile: Path | None = None,
) -> ort.InferenceSession:
    """A session with ``threads`` threads that do not spin between runs.

    Args:
        entries: session configuration, the result of :func:`exact`.
        profile: prefix of the file that ``end_profiling`` writes.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return ort.InferenceSession(model, options, providers=[provider])


def exact(probe: bytes) -> dict[str, str]:
    """The session configuration that makes integers exact on this machine; empty if they are exact by default.

    Args:
        probe: a model whose outputs are all 1 if no sum saturates
            (:func:`harness.machine.host.probe`).
    """
    session = open_session(probe, {})
    [model_input] = session.get_inputs()
    for batch in (1, 2):  # batch 1 and larger batches use different kernels
        outputs = session.run(None, {model_input.name: np.ones([batch, *model_input.shape[1:]], np.float32)})
        if any(np.abs(np.asarray(values) - 1).max() > 0.01 for values in outputs):
            return {EXACT: "1"}
    return {}
