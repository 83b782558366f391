"""Run one space and keep its front as a reference result: ``python benchmarks/reference.py SPACE [--trials N]``.

results/reference/NAME gets the front's table with hardware, versions and
command (README.md), ``pareto.csv``, ``trials.csv``, the space, ``study.json`` and the named recipes.
``front.png`` is a screenshot of the report's first plots, taken by hand.
The models are not committed; ``harness train`` makes them from the recipes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import ROOT, conditions
from harness.report import load_study, write_report
from harness.report.page import summary
from harness.report.study_data import StudyData
from harness.report.tables import short_recipe
from harness.report.units import share, size, time
from harness.search.driver import search
from harness.space.space import load_space

KEPT = ("space.yaml", "study.json", "teacher.json", "report/pareto.csv", "report/trials.csv")


def table(data: StudyData) -> list[str]:
    """The front and the plain fp32 width sweep, as Markdown rows."""
    rows = ["| trial | accuracy | test | size | latency | recipe |", "|---:|---:|---:|---:|---:|---|"]
    for _, row in [*data.front.iterrows(), *data.sweep.iterrows(), *data.named.iterrows()]:
        cells = [
            share(row["accuracy"]),
            share(row["test_accuracy"]),
            size(row["size_bytes"]),
            time(row["latency_ms"]),
            row["baseline"] or short_recipe(data, row),
        ]
        rows.append(f"| {int(row['number'])} | " + " | ".join(cells) + " |")
    return rows


def readme(data: StudyData, command: str) -> str:
    known = conditions()
    versions = ", ".join(f"{name} {number}" for name, number in known["versions"].items())
    samples = data.front.iloc[0]
    measured = data.records[int(samples["number"])].measurements
    n, timed = measured["accuracy"].conditions["n"], measured["latency_ms"].conditions
    return "\n".join(
        [
            f"# {data.name}: a reference front",
            "",
            f"- command: `{command}`",
            f"- hardware: {known['cpu_model']}, {known['cores']} cores, {', '.join(known['isa'])}, "
            f"{known['ram_gib']} GiB, {known['os']}",
            f"- versions: Python {known['python']}, {versions}; commit {known['commit']}",
            f"- {len(data.finished)} trials finished, {data.study['wall_s']:.0f} s; validation n = {n}, "
            f"test n = {int(samples['test_n'])}; latency: batch {timed['batch_size']}, {timed['threads']} thread(s), "
            f"{timed['runtime']}",
            "",
            *summary(data),
            "",
            "The front, the smallest file first; below it the plain fp32 students (baselines), then recipes that",
            "the space names.",
            "",
            *table(data),
            "",
            "![accuracy against file size and latency, from the report](front.png)",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space", type=Path)
    parser.add_argument("--trials", type=int)
    given = parser.parse_args()
    changes = [] if given.trials is None else [f"search.trials={given.trials}"]
    folder = ROOT / "results" / given.space.stem
    search(load_space(given.space, overrides=changes), folder)
    data = load_study(folder)
    write_report(data)
    out = ROOT / "results" / "reference" / given.space.stem
    shutil.rmtree(out, ignore_errors=True)
    (out / "best").mkdir(parents=True)
    for name in KEPT:
        if (folder / name).exists():
            shutil.copy(folder / name, out / Path(name).name)
    for path in (folder / "best").glob("*.yaml"):
        shutil.copy(path, out / "best" / path.name)
    shown = " ".join(["python", "benchmarks/reference.py", *sys.argv[1:]])
    (out / "README.md").write_text(readme(data, shown))
    print((out / "README.md").read_text())


if __name__ == "__main__":
    main()
