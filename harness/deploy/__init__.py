"""From a trained student to a file, and from the file to numbers."""

from __future__ import annotations

from harness.methods import Method

RUNTIMES = {"onnxruntime": Method("harness.deploy.runtimes:onnxruntime_session")}
