"""Bundles of files for a device, and what comes back from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from harness.cli.main import app


def on_a_device(bundle: Path) -> None:
    """Run a bundle's script with neither harness nor torch on its path, and a module of it that prints."""
    alone = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    check = "import sys, runpy; sys.argv = sys.argv[1:]; sys.modules.update(harness=None, torch=None); "
    check += "runpy.run_path(sys.argv[0], run_name='__main__')"
    with open(bundle / "timing.py", "a") as file:  # imported by each measuring process
        file.write("print('a runtime greets')\n")
    command = [sys.executable, "-c", check, str(bundle / "device_bench.py"), "--seconds", "0.02", "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=bundle, env=alone)
    assert done.returncode == 0, done.stderr


def bundled(files: list[Path], bundle: Path) -> Path:
    """A bundle of ``files`` with the results of a run."""
    ran = CliRunner().invoke(app, ["bench", *map(str, files), "--bundle", str(bundle)])
    assert ran.exit_code == 0, ran.output
    on_a_device(bundle)
    return bundle


def results(**changed: object) -> str:
    """The text that a device sends back, with some keys changed."""
    session = {
        "blocks": [[[1.0, 1.1, 1.2]] * 3] * 2, "load_ms": [1.0, 2.0], "core": 0, "host": "h", "cpu_model": "c",
        "complaints": [], "options": [],
    }  # fmt: skip
    file = {"path": "a.onnx", "sha256": "0", "model_sha256": "1", "measured_sha256": "1"}
    whole = {"sessions": [session] * 2, "files": [file] * 2, "runtime": "onnxruntime", "batch_size": 1, "threads": 1}
    return json.dumps({**whole, **changed})
