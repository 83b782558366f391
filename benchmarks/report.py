"""The output of every benchmark: hardware, versions, command and figures."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.machine.host import environment

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "ray", "optuna", "onnxruntime", "numpy")


def conditions() -> dict[str, Any]:
    """Machine, versions, commit and command of this run."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    known = {k: v for k, v in environment().items() if k != "host"}
    return {
        **known,
        "versions": {p: version(p) for p in PACKAGES},
        "commit": commit,
        "command": " ".join(["python", *(Path(a).as_posix() for a in sys.argv)]),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, quartiles and n of some figures."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {"median": middle, "q1": low, "q3": high, "n": len(values)}


def save(name: str, figures: dict[str, Any]) -> None:
    """Print the figures and write ``results/benchmarks/NAME.json``."""
    path = ROOT / "results" / "benchmarks" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"benchmark": name, "conditions": conditions(), "figures": figures}, indent=1)
    path.write_text(text + "\n")
    print(text)
