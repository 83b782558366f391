"""The verbs that make a study: ``init`` writes a first space, ``search`` searches one."""

from __future__ import annotations

import json
import math
import os
import shlex
import statistics
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import SpaceError

if TYPE_CHECKING:
    from harness.api.studies import Study
    from harness.report.study_data import StudyData

verbs = typer.Typer()
_UNITS = {"s": 1, "m": 60, "h": 3600}
_ENDED = {
    "complete": "the study is complete.",
    "already complete": "the study was complete before. For more, the same command with a larger --trials.",
    "exhausted": "the study ended: no recipe is left to try, or too many trials failed in a row.",
    "interrupted": "interrupted: what finished is kept, and the same command resumes.",
}


@verbs.command()
def search(
    space: Annotated[Path, typer.Argument(metavar="SPACE", help="a search space, search_spaces/digits.yaml")],
    study: Annotated[str | None, typer.Option(help="name: results/NAME (default: that of SPACE)")] = None,
    out: Annotated[Path | None, typer.Option(help="the study's folder, instead of results/NAME")] = None,
    trials: Annotated[int | None, typer.Option(help="as --set search.trials=N")] = None,
    time: Annotated[str | None, typer.Option(help="90s, 30m, 8h: start no trial after that")] = None,
    epochs_total: Annotated[int | None, typer.Option(help="as --set search.epochs_total=N")] = None,
    stop: Annotated[str | None, typer.Option(help="early stopping: none, dominated, moasha")] = None,
    address: Annotated[str | None, typer.Option(help="an existing Ray cluster, HOST:PORT or auto")] = None,
    storage: Annotated[str | None, typer.Option(help="as --set search.storage=URL (Optuna's)")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="replace a value of SPACE")
    ] = None,
    warm_start: Annotated[Path | None, typer.Option(help="an earlier study, whose front is tried first")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="make the index again from the records")] = False,
    against: Annotated[
        str | None, typer.Option(help="then search with this sampler alone (random, ...) and compare")
    ] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="write the report at the end")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything, print the plan, and stop")] = False,
) -> None:
    """Search SPACE; the same command again resumes."""
    import harness

    for option, number in (("--trials", trials), ("--epochs-total", epochs_total)):
        if number is not None and number < 1:
            raise SpaceError(option, "must be at least 1", number, f"Example: {option} 60.")
    settings = {
        "trials": trials,
        "time_s": None if time is None else _seconds(time),
        "epochs_total": epochs_total,
        "stop": stop,
        "storage": None if storage is None else json.dumps(storage),
    }
    overrides = [*(changes or []), *(f"search.{name}={value}" for name, value in settings.items() if value is not None)]
    loaded = harness.load_space(space, overrides=overrides)
    folder = _study_folder(space, study, out)
    say = partial(typer.echo, err=True)
    say(f"harness {harness.__version__}: {space} is in order; study {folder}")  # Optuna and Ray take seconds to import
    if dry_run:
        typer.echo(harness.plan(loaded, folder, say=say))
        say("No trial has run. The same command without --dry-run searches.")
        return
    searched = harness.search(loaded, folder, address=address, rebuild=rebuild, warm_start=warm_start)
    outcome = searched.outcome
    assert outcome is not None
    if outcome.finished:
        show(searched, write=report)
    typer.echo(
        f"{outcome.folder}: {outcome.finished} trials finished"
        + (f" ({outcome.stopped} stopped early)" if outcome.stopped else "")
        + f", {outcome.failed} failed; "
        + _ENDED[outcome.status]
    )
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)
    if against is not None:
        plain = [*overrides, f"search.sampler={against}", "search.stop=none", "search.lanes=1"]
        other = folder.with_name(f"{folder.name}-{against}")
        harness.search(harness.load_space(space, overrides=plain), other, address=address)
        _compare(folder, other)


@verbs.command()
def init(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="DATA.npz, a FOLDER of them, a CHECKPOINT")],
    model: Annotated[
        str | None, typer.Option(help="package.module:function that builds the CHECKPOINT's network")
    ] = None,
    out: Annotated[Path, typer.Option(help="the file to write")] = Path("space.yaml"),
) -> None:
    """Write a first search space for your data, your trained network, or both."""
    from harness.api.drafts import draft

    made = draft(paths, model)
    if os.path.lexists(out):  # also a link that leads nowhere
        raise SpaceError("--out", "must not exist yet", str(out), "Remove it, or choose another name.")
    if not out.parent.is_dir():
        raise SpaceError("--out", "must be in a folder that exists", str(out))
    out.write_text(made.text)
    for line in made.found:
        typer.echo(line)
    typer.echo(f"{out} written")
    for line in made.missing:
        typer.echo(f"CHANGE in it: {line}")
    space = shlex.quote(str(out))
    typer.echo(f"Next:   harness search {space} --dry-run    # checks all of it, prints the plan")
    typer.echo(f"        harness search {space}")


def _compare(folder: Path, other: Path) -> None:
    """Write and print the comparison of two studies."""
    from harness.report.compare import load_contenders
    from harness.report.compare_page import terminal, write_comparison

    contenders = load_contenders([str(folder), str(other)])
    typer.echo(terminal(contenders))
    typer.echo(f"Report: {write_comparison(contenders, folder / 'report' / 'compare.html')}")


def _seconds(text: str) -> float:
    """``90s``, ``30m``, ``8h``; a bare number is seconds."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        seconds = float(number) * _UNITS[unit]
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise SpaceError("--time", "must be a number above 0 of s, m or h", text, "Example: --time 30m.")
    return seconds


def _study_folder(space: Path, study: str | None, out: Path | None) -> Path:
    if study is not None and out is not None:
        raise SpaceError("--study", "names results/NAME, and --out a folder", remedy="Give one of the two.")
    name = space.stem if study is None else study
    if not name or name in (".", "..") or Path(name).name != name:
        raise SpaceError("--study", "must be a name without slashes", name, "For another folder use --out.")
    return new_folder(out or Path("results") / name)


def new_folder(folder: Path) -> Path:
    """``folder``, if it is a folder or can be made: no part of its path may be a file.

    Raises:
        SpaceError: a part of the path is a file.
    """
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise SpaceError("--out", "must be a folder", str(part), "There is a file of that name.")
    return folder


def show(study: Study, write: bool) -> None:
    """Print the front of a study and the next commands; with ``write``, first write its report."""
    from harness.report import terminal_table
    from harness.report.study_data import reading

    page = study.report() if write else None
    with reading(study.folder):
        typer.echo(terminal_table(study.data))
    if page is not None:
        typer.echo(f"Report: {page}")
    knee = study.folder / "best" / "knee.yaml"
    if knee.exists():
        typer.echo(f"Next:   harness train {knee}")
        typer.echo(f"        harness pick {study.folder} {_target(study.data)}")


def _target(data: StudyData) -> str:
    """An example of a limit for ``pick`` that a point keeps: accuracy 95 % or a point below the best, or the front's
    median of another quality."""
    name, direction = data.quality.name, data.quality.direction
    if name == "accuracy":
        best = 100 * max(data.front[name].tolist())
        return f"--min-accuracy {95 if best >= 95 else max(0, math.floor(best) - 1)}%"
    value = statistics.median(data.front[name].tolist())
    return f"{'--min' if direction == 'maximize' else '--max'} {name}={value:.3g}"
