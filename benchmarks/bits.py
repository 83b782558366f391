"""Test accuracy as a function of the weights' bits, for every quantization method, on a small CNN.

Fashion-MNIST (6,000 training images), a convnet of width 16, 8-bit activations, weights rounded in
the second half of training. Accuracy is that of the exported file on the 10,000 test images.
Writes a table and a plot under ``results/reference/bits``.
"""

from __future__ import annotations

import csv
import os
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from harness.recipe import parse_recipe
from harness.registries import REGISTRIES
from harness.trial.job import TrialJob

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import plotly.graph_objects as go

from benchmarks.report import ROOT, conditions
from harness.report.plots import page_layout

METHODS = ("uniform", "lsq", "dorefa", "standardized")
BITS = (1, 2, 3, 4, 8)
SEEDS = 3
RECIPE = {
    "task": {"name": "fashion_mnist", "train_limit": 6000},
    "student": {"model": "convnet", "width": 16, "stages": 2},
    "train": {"epochs": 12, "batch_size": 64, "lr": 0.1, "weight_decay": 5e-4},
}


def one(method: str, bits: int, seed: int) -> dict[str, Any]:
    from harness.trial import run as trial

    with tempfile.TemporaryDirectory() as folder:
        tree = {**RECIPE, "quant": {"kind": method, "bits": bits}, "seed": seed}
        record = trial.run(TrialJob(parse_recipe(tree, REGISTRIES), 0, Path(folder)))
        if record.status != "ok":
            raise RuntimeError(f"{method}, {bits} bits: {record.reason}")
        accuracy = trial.score_test(folder)["accuracy"]
        return {
            "method": method,
            "bits": bits,
            "seed": seed,
            "test_accuracy": accuracy,
            "size_bytes": record.artifact.size_bytes,
        }


def cell(rows: list[dict[str, Any]], method: str, bits: int) -> tuple[float, float, float]:
    """Mean, lowest and highest test accuracy."""
    found = [r["test_accuracy"] for r in rows if (r["method"], r["bits"]) == (method, bits)]
    return statistics.mean(found), min(found), max(found)


def plot(rows: list[dict[str, Any]], fp32: float) -> go.Figure:
    figure = go.Figure()
    for method in METHODS:
        cells = [cell(rows, method, bits) for bits in BITS]
        spread = {"array": [h - m for m, _, h in cells], "arrayminus": [m - low for m, low, _ in cells]}
        figure.add_scatter(
            x=[str(b) for b in BITS], y=[m for m, _, _ in cells], name=method, error_y={**spread, "symmetric": False}
        )
    figure.add_hline(y=fp32, line={"dash": "dot"}, annotation_text="float32")
    figure.update_xaxes(title="bits of the weights", type="category")
    figure.update_yaxes(title="test accuracy", tickformat=".0%")
    return page_layout(figure)


def readme(rows: list[dict[str, Any]]) -> str:
    known = conditions()
    versions = ", ".join(f"{name} {number}" for name, number in known["versions"].items())
    size = {r["bits"]: r["size_bytes"] for r in rows if r["method"] == "uniform"}
    full = cell(rows, "uniform", 32)
    table = ["| bits | " + " | ".join(METHODS) + " | file (uniform) |", "|---:|" + "---:|" * (len(METHODS) + 1)]
    for bits in BITS:
        cells = ["{:.2%} ({:.2%} .. {:.2%})".format(*cell(rows, m, bits)) for m in METHODS]
        table.append(f"| {bits} | " + " | ".join(cells) + f" | {size[bits]:,} B |")
    return "\n".join(
        [
            "# Accuracy against bits",
            "",
            f"- command: `python benchmarks/bits.py`; {SEEDS} seeds: mean (lowest .. highest) on test",
            f"- hardware: {known['cpu_model']}, {known['cores']} cores, {known['ram_gib']} GiB, {known['os']}",
            f"- versions: Python {known['python']}, {versions}; commit {known['commit']}",
            f"- recipe: `{RECIPE}`",
            f"- float32: {full[0]:.2%} ({full[1]:.2%} .. {full[2]:.2%}), {size[32]:,} B",
            "",
            *table,
            "",
            "![test accuracy against bits](bits.png)",
            "",
        ]
    )


def main() -> None:
    jobs = [("uniform", 32, seed) for seed in range(SEEDS)]
    jobs += [(method, bits, seed) for method in METHODS for bits in BITS for seed in range(SEEDS)]
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        rows = list(pool.map(one, *zip(*jobs, strict=True)))
    folder = ROOT / "results" / "reference" / "bits"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bits.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "README.md").write_text(readme(rows))
    page = Path(tempfile.gettempdir()) / "bits.html"  # the picture beside the table is made from this page by hand
    plot(rows, cell(rows, "uniform", 32)[0]).write_html(page)
    print((folder / "README.md").read_text(), page)


if __name__ == "__main__":
    main()
