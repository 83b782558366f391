"""``python -m harness`` is the command ``harness``."""

from harness.cli import app

app(prog_name="harness")
