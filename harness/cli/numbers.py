"""The verbs that evaluate existing files and studies: ``bench``, ``check``, ``confirm``, ``compare``, ``audit``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from harness.measure.bench import Bench, Timing

verbs = typer.Typer()
Trust = Annotated[bool, typer.Option("--trust", help="run the code that the study names, without asking")]


def ask() -> Callable[[str], bool] | None:
    """A function that asks the user at the terminal a yes-or-no question; None if there is no terminal."""
    at_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    return (lambda question: typer.confirm(question, default=False, err=True)) if at_terminal else None


@verbs.command()
def bench(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE...", help="ONNX files; the first is the reference")
    ] = None,
    runtime: Annotated[list[str] | None, typer.Option(help="onnxruntime, openvino, ...; may be repeated")] = None,
    batch_size: Annotated[int, typer.Option(help="samples per call", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="of the runtime", min=1)] = 1,
    seconds: Annotated[float, typer.Option(help="timed per file and process", min=0.01)] = 1.0,
    processes: Annotated[int, typer.Option(help="fresh ones, for the intervals", min=2)] = 5,
    out: Annotated[Path | None, typer.Option("--json", help="write every figure and raw run here")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="new folder: FILEs and a script to time them on another device")
    ] = None,
    results: Annotated[Path | None, typer.Option("--import", help="results.json that such a bundle wrote")] = None,
    into: Annotated[Path | None, typer.Option(help="with --import: a study whose records get the result")] = None,
) -> None:
    """Time FILEs interleaved on each runtime: medians, tails, ratios to the first, with intervals."""
    from harness.errors import SpaceError

    if results is not None:
        _import(results, into)
        return
    if not files:
        raise SpaceError("FILE...", "is needed", remedy="Name ONNX files, or --import results.json of a bundle.")
    if bundle is not None:
        from harness.measure.bundle import write_bundle

        typer.echo(f"Copy {bundle} to the device and run: python {write_bundle(files, bundle).name}")
        typer.echo("Then bring results.json back: harness bench --import results.json [--into STUDY]")
        return
    from harness.measure.bench import bench as run
    from harness.measure.lab import Job

    jobs = [Job(path, name) for name in runtime or ["onnxruntime"] for path in files]
    benchmark = run(jobs, 0, batch_size, threads, seconds, processes)
    show(benchmark)
    if out is not None:
        from harness.records import write_json_durably

        write_json_durably(out, as_json(benchmark))
        typer.echo(f"written: {out}")


def _import(results: Path, into: Path | None) -> None:
    from harness.measure.bundle import QUANTITY, into_study, read_results

    benchmark, digests = read_results(results)
    show(benchmark)
    if into is not None:
        numbers = into_study(benchmark, digests, into)
        typer.echo(f"{into}: {QUANTITY} added to trials {', '.join(map(str, numbers))}")
        typer.echo(f"Its front: harness report {into} --objectives accuracy,size_bytes,{QUANTITY}")


@verbs.command()
def check(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="the folder of a study, results/digits")],
    seconds: Annotated[float, typer.Option(help="timed per file and process", min=0.01)] = 0.5,
    processes: Annotated[int, typer.Option(help="fresh ones, for the intervals", min=2)] = 5,
    trust: Trust = False,
) -> None:
    """Measure the files of STUDY's front again; exit code 1 if a claim does not hold here."""
    from rich.console import Console
    from rich.table import Table

    from harness import Study

    claims = Study(study).check(seconds=seconds, processes=processes, trusted=trust, ask=ask())
    broken = [c for c in claims if not c.holds]
    if broken:
        table = Table("file", "quantity", "claimed", "found here", "rule")
        for c in broken:
            table.add_row(c.file, c.quantity, c.claimed, c.found, c.rule)
        Console(markup=False, soft_wrap=True).print(table)
    for quantity in dict.fromkeys(c.quantity for c in claims):
        holds = [c.holds for c in claims if c.quantity == quantity]
        typer.echo(f"{quantity}: {sum(holds)} of {len(holds)} claims hold here")
    if broken:
        raise typer.Exit(1)


@verbs.command()
def confirm(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="the folder of a study, results/digits")],
    seeds: Annotated[int, typer.Option(help="new trainings of each point", min=2)] = 3,
    bound: Annotated[float, typer.Option(help="least probability of being on the front", min=0, max=1)] = 0.05,
    most: Annotated[int, typer.Option(help="points at most, the likeliest first", min=1)] = 30,
    seconds: Annotated[float, typer.Option(help="timed per file and process", min=0.01)] = 0.5,
    processes: Annotated[int, typer.Option(help="fresh ones, for the intervals", min=2)] = 5,
    repeat: Annotated[int, typer.Option(help="1, 2, ...: confirm again on other seeds", min=0)] = 0,
    address: Annotated[str | None, typer.Option(help="an existing Ray cluster, HOST:PORT or auto")] = None,
    trust: Trust = False,
) -> None:
    """Train STUDY's likely front on new seeds, time its files side by side, and print which points are on the front."""
    from harness import Study
    from harness.report.confirmed import terminal_table

    opened = Study(study)
    protocol = {"bound": bound, "most": most, "seconds": seconds, "processes": processes, "repeat": repeat}
    result = opened.confirm(seeds, **protocol, address=address, say=typer.echo, trusted=trust, ask=ask())
    typer.echo(terminal_table(result))
    if not repeat:
        typer.echo(f"Report: {opened.report()}")


@verbs.command()
def compare(
    studies: Annotated[list[str], typer.Argument(metavar="[LABEL=]STUDY[,STUDY...]...", help="commas join seeds")],
    out: Annotated[Path, typer.Option(help="the page to write")] = Path("results/compare.html"),
) -> None:
    """Compare studies: hypervolume over time and epochs, fronts, attained accuracy, a verdict."""
    from harness.report.compare import load_contenders
    from harness.report.compare_page import terminal, write_comparison
    from harness.report.study_data import reading

    with reading(" ".join(studies)):
        contenders = load_contenders(studies)
        summary = terminal(contenders)
    typer.echo(summary)
    typer.echo(f"Report: {write_comparison(contenders, out)}")


@verbs.command()
def audit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="an ONNX or packed file")],
    runtime: Annotated[str, typer.Option(help="onnxruntime, openvino, ...")] = "onnxruntime",
) -> None:
    """Print how each layer of FILE is stored, how many of its weights are zero, and which kernel runs it."""
    from rich.console import Console
    from rich.table import Table

    from harness.measure.audit import audit as look
    from harness.report.units import size

    audited = look(file, runtime)
    table = Table("layer", "weight", "stored", "zeros", "masked channels", f"ran on {runtime}", "integer")
    for layer in audited.layers:
        shape = " x ".join(map(str, layer.shape))
        kernel = [layer.kernel, "yes" if layer.integer else "no"]
        table.add_row(layer.operator, shape, layer.stored, f"{layer.zeros:.1%}", str(layer.zero_channels), *kernel)
    Console(markup=False).print(table)
    whole = sum(layer.integer for layer in audited.layers)
    typer.echo(f"{file}: {audited.format}, {audited.size_bytes:,} bytes ({size(audited.size_bytes)})")
    typer.echo(f"integer kernels: {whole} of {len(audited.layers)} layers")
    _recorded(file)


def _recorded(file: Path) -> None:
    """Print parity, waterfall and latency from the record beside a trial's file, if there is one."""
    from harness.records import read_record
    from harness.report.units import size, time

    record = read_record(file.parent)
    if record is None or record.artifact is None or record.artifact.path != file.name:
        return
    if "parity" in record.diagnostics:
        parity = record.diagnostics["parity"]
        same = f"{parity['n'] - parity['disagreements']:.0f} of {parity['n']:.0f} classes equal"
        typer.echo(f"parity with training: {same}, logits within {parity['relative']:.2%} of the largest")
    if record.waterfall:
        typer.echo("bytes: " + " -> ".join(f"{name} {size(b)}" for name, b in record.waterfall.items()))
    if "latency_ms" in record.measurements:
        latency = record.measurements["latency_ms"]
        load = latency.conditions.get("load_ms")
        loaded = "" if load is None else f", loads in {time(load)}"
        typer.echo(f"latency: {time(latency.median)} ({latency.conditions.get('verdict', 'no verdict')}){loaded}")


def show(benchmark: Bench) -> None:
    """Print the table of a bench and its conditions."""
    from rich.console import Console
    from rich.table import Table

    table = Table("file", "runtime", "p50", "+-", "p90 <=", "ratio", "95 % interval", "load", "verdict")
    names = labels([t.job.path for t in benchmark.timings])
    for name, t in zip(names, benchmark.timings, strict=True):
        table.add_row(name, *cells(t))
    console = Console(markup=False)
    console = Console(markup=False, width=max(console.width, 120))
    console.print(table)
    first = benchmark.sessions[0]
    typer.echo(
        f"{len(benchmark.sessions)} processes, batch {benchmark.batch_size}, {benchmark.threads} thread(s), "
        f"core {first.core}, {first.cpu_model}; ratios to {names[0]} on {benchmark.timings[0].job.runtime}"
    )
    settings = {f"{name}={value}" for options in first.options for name, value in options.items()}
    if settings:
        typer.echo(f"options for exact integers on this processor: {', '.join(sorted(settings))}")


def labels(paths: list[Path]) -> list[str]:
    """The shortest endings of the paths that distinguish different files."""
    different = set(paths)
    for parts in range(1, max(len(p.parts) for p in paths) + 1):
        ends = {p: "/".join(p.parts[-parts:]) for p in different}
        if len(set(ends.values())) == len(different):
            return [ends[p] for p in paths]
    return [str(p) for p in paths]


def cells(t: Timing) -> list[str]:
    """The cells after the file's name; ``+-`` is half of the 95 % interval between processes."""
    from harness.report.units import time

    low, high = t.p50_interval
    return [
        t.job.runtime,
        time(t.p50_ms),
        f"{(high - low) / 2 / t.p50_ms:.1%}",
        "" if t.p90_ms is None else time(t.p90_ms),
        f"{t.ratio:.3f}",
        f"{t.ratio_interval[0]:.3f} .. {t.ratio_interval[1]:.3f}",
        time(t.load_ms),
        "; ".join([t.verdict, *t.reasons]),
    ]


def as_json(benchmark: Bench) -> dict[str, Any]:
    """Everything that was measured, raw runs included."""
    from harness.machine.host import environment

    timings = [{**asdict(t), "job": {"path": str(t.job.path), "runtime": t.job.runtime}} for t in benchmark.timings]
    return {
        "environment": environment(),
        "batch_size": benchmark.batch_size,
        "threads": benchmark.threads,
        "timings": [{**t, "verdict": m.verdict} for t, m in zip(timings, benchmark.timings, strict=True)],
        "sessions": [asdict(s) for s in benchmark.sessions],
    }
