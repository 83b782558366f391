"""One thread a process, a cache of its own, and a Ray that asks nobody for a token.

Environment variables are set here, before anything imports torch or ray; torch itself is imported
by the tests that need it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_CACHE = tempfile.TemporaryDirectory(prefix="harness-tests-")
ROOT = Path(__file__).resolve().parent.parent

os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HARNESS_CACHE": _CACHE.name,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
)
os.environ.pop("RAY_ADDRESS", None)
