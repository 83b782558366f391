"""How an onnxruntime session is opened: here, and on a device, where bundles take this file along.

Where an x86 processor lacks VNNI, onnxruntime adds two products of an unsigned byte (an activation) and a
signed one (a weight) in 16 bits, and 2 * 255 * 127 saturates at 32767: the file then computes something else.
Its option EXACT makes weights beyond +-64 unsigned, whose products are added in 32 bits. With VNNI every sum is
exact already and the option only costs time, so it is set where a probe saturates and nowhere else.
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
        entries: of the session's configuration: what :func:`exact` says of this machine.
        profile: where to begin the name of the file that ``end_profiling`` writes.
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
    """The entries that make integers exact on this machine: none where they are so by themselves.

    Args:
        probe: a model whose outputs are all 1 where no sum saturates
            (:func:`harness.machine.host.probe`).
    """
    session = open_session(probe, {})
    [given] = session.get_inputs()
    for batch in (1, 2):  # a vector and a matrix have kernels of their own
        made = session.run(None, {given.name: np.ones([batch, *given.shape[1:]], np.float32)})
        if any(np.abs(np.asarray(values) - 1).max() > 0.01 for values in made):
            return {EXACT: "1"}
    return {}
