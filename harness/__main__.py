"""``python -m harness`` is the command ``harness``."""

from harness.cli.main import app

app(prog_name="harness")
