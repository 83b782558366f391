"""The command line in this process, for verbs that only read: it saves the imports of a process of their own."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from typer.testing import CliRunner

from harness.cli.main import app


def harness_here(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """How ``harness ARGUMENTS`` ends in the folder ``cwd``."""
    with contextlib.chdir(cwd):
        ran = CliRunner().invoke(app, list(arguments))
    return subprocess.CompletedProcess(arguments, ran.exit_code, ran.stdout, ran.stderr)
