"""The command ``harness``: parse, call, print. Verbs import what they need when they run, so that help is fast.

Exit codes: 0 success, 1 failure, 2 a mistake in the request (one message, no traceback),
130 interrupted by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from harness.cli.numbers import Trust, ask, verbs
from harness.errors import HarnessError, SpaceError, disk_error
from harness.files.passwords import masked

if TYPE_CHECKING:
    from harness.api.studies import Study
    from harness.report.study_data import StudyData


class Verbs(TyperGroup):
    """Turns the errors that a user can cause into one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SpaceError as error:
            typer.echo(f"harness: {masked(str(error))}", err=True)
            raise typer.Exit(2) from None
        except HarnessError as error:
            typer.echo(f"harness: {masked(str(error))}", err=True)
            raise typer.Exit(1) from None
        except OSError as error:
            disk_failure = disk_error(error, denied=True)
            if disk_failure is None:
                raise
            typer.echo(f"harness: {disk_failure}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as error:
            typer.echo("harness: interrupted", err=True)
            raise typer.Exit(getattr(error, "exit_code", 130)) from None


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Search for models that are small and fast enough to deploy.",
)

app.add_typer(verbs)
StudyFolder = Annotated[Path, typer.Argument(metavar="STUDY", help="the folder of a study, results/digits")]


@app.callback()
def configure(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log what happens")] = False,
) -> None:
    """Runs before every verb."""
    level = logging.INFO if verbose else logging.WARNING
    handler = logging.StreamHandler()
    handler.setFormatter(Masked("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class Masked(logging.Formatter):
    """Log lines with masked passwords, also those of other libraries."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


@app.command()
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

    say = partial(typer.echo, err=True)
    say(f"harness {harness.__version__}: {space}")
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
    if dry_run:
        typer.echo(harness.plan(loaded, folder, say=say))
        say("Nothing was written. The same command without --dry-run searches.")
        return
    searched = harness.search(loaded, folder, address=address, rebuild=rebuild, warm_start=warm_start)
    outcome = searched.outcome
    assert outcome is not None
    if outcome.finished:
        _show(searched, write=report)
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


@app.command()
def init(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="DATA.npz, a FOLDER of them, a CHECKPOINT")],
    model: Annotated[
        str | None, typer.Option(help="package.module:function that builds the CHECKPOINT's network")
    ] = None,
    out: Annotated[Path, typer.Option(help="the file to write")] = Path("space.yaml"),
) -> None:
    """Write a first search space for your data, your trained network, or both."""
    from harness.api.drafts import draft

    if out.exists():
        raise SpaceError("--out", "must not exist yet", str(out), "Remove it, or choose another name.")
    made = draft(paths, model)
    out.write_text(made.text)
    for line in made.found:
        typer.echo(line)
    typer.echo(f"{out} written")
    for line in made.missing:
        typer.echo(f"CHANGE in it: {line}")
    typer.echo(f"Next:   harness search {out} --dry-run    # checks all of it, prints the plan")
    typer.echo(f"        harness search {out}")


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


@app.command()
def report(
    study: StudyFolder,
    objectives: Annotated[str | None, typer.Option(help="other ones: accuracy,size_bytes,device_latency_ms")] = None,
) -> None:
    """Write the report of STUDY again, from the files in its folder."""
    from harness import open_study

    _show(open_study(study, tuple(objectives.split(",")) if objectives else None), write=True)


@app.command()
def status(study: StudyFolder) -> None:
    """Print the progress of STUDY."""
    from harness import open_study
    from harness.report.study_data import reading

    with reading(study):
        _status(open_study(study))


def _status(study: Study) -> None:
    from harness.report.study_data import printable
    from harness.report.units import head, quantity
    from harness.search.lock import holder

    data, running = study.data, holder(study.folder)
    counts = data.trials["status"].value_counts()
    typer.echo(f"{data.name}: {running or printable(str(data.study.get('status') or _UNENDED))}")
    typer.echo(f"objectives: {', '.join(f'{o.direction} {head(o.name)}' for o in data.objectives)}")
    typer.echo(
        f"trials: {len(data.finished)} finished, {counts.get('stopped', 0)} stopped early, "
        f"{counts.get('failed', 0)} failed, "
        f"{len(data.unreadable)} unreadable; on the front: {len(data.front)}"
    )
    if not data.front.empty:
        name, best = data.quality.name, data.best_first(data.front).iloc[0]
        typer.echo(f"best {head(name)}: {quantity(name, best[name])} (trial {best['number']})")
    for number, reason in data.trials.loc[data.trials["status"] == "failed", "reason"].items():
        typer.echo(f"  trial {number} failed: {reason}")


@app.command()
def pick(
    study: StudyFolder,
    max_latency_ms: Annotated[float | None, typer.Option(help="highest latency")] = None,
    max_size_bytes: Annotated[int | None, typer.Option(help="largest file")] = None,
    min_accuracy: Annotated[str | None, typer.Option(help="lowest accuracy, 95% or 0.95")] = None,
    most: Annotated[list[str] | None, typer.Option("--max", metavar="NAME=VALUE", help="any quantity: at most")] = None,
    least: Annotated[list[str] | None, typer.Option("--min", metavar="NAME=VALUE", help="f1=0.9: at least")] = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="print the recipe itself")] = False,
) -> None:
    """Print the best point on STUDY's front within the limits, and the paths of its model and its recipe."""
    from harness import open_study
    from harness.report.units import head, quantity

    named = {"latency_ms": max_latency_ms, "size_bytes": max_size_bytes}
    highest = {name: float(value) for name, value in named.items() if value is not None}
    lowest = {} if min_accuracy is None else {"accuracy": _limit("--min-accuracy", min_accuracy)}
    chosen = open_study(study).pick({**highest, **_limits("--max", most)}, {**lowest, **_limits("--min", least)})
    if yaml:
        typer.echo(chosen.yaml, nl=False)
        return
    values = (f"{head(name)} {quantity(name, value)}" for name, value in chosen.values.items() if name != "test_n")
    typer.echo(f"trial {chosen.number}: {', '.join(values)}")
    typer.echo(f"model:  {chosen.model}")
    typer.echo(f"recipe: {chosen.recipe}")
    typer.echo(f"Next:   harness train {chosen.recipe}")


def _limits(option: str, assignments: list[str] | None) -> dict[str, float]:
    """Parse texts ``NAME=VALUE`` into name -> number."""
    return {name: _limit(option, value, text) for text in assignments or [] for name, _, value in [text.partition("=")]}


def _limit(option: str, value: str, text: str = "") -> float:
    """A number, or a percentage as a share: ``95%`` is 0.95."""
    try:
        return float(value[:-1]) / 100 if value.endswith("%") else float(value)
    except ValueError:
        rule, example = ("must be NAME=VALUE", "--min f1=0.9") if text else ("must be a number", "--min-accuracy 95%")
        raise SpaceError(option, rule, text or value, f"Example: {example}.") from None


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="results/digits/best/knee.yaml")],
    epochs: Annotated[int | None, typer.Option(help="instead of the recipe's", min=1)] = None,
    out: Annotated[Path | None, typer.Option(help="folder (default: beside RECIPE, NAME-trained)")] = None,
    seed: Annotated[int | None, typer.Option(help="instead of the recipe's", min=0)] = None,
    trust: Trust = False,
) -> None:
    """Train RECIPE for production: write a deployable folder, print the promised values and the measured ones."""
    from harness.space.source import read_source
    from harness.space.space import load_recipe
    from harness.space.trust import named_code, require, study_of

    loaded, study = load_recipe(recipe), study_of(recipe)
    if study is not None:
        require("train", study, named_code(loaded.to_tree()), trust, ask())
    promise = read_source(recipe).tree.get("promise")
    folder = _new_folder(out or recipe.with_name(f"{recipe.stem}-trained"))
    from harness.production import train as run
    from harness.search.examination import say_loaded

    announce = partial(say_loaded, say=typer.echo)
    produced = run(loaded, folder, epochs=epochs, seed=seed, promise=promise, on_loaded=announce)
    metrics = "".join(f", {name} {value:.4f}" for name, value in produced.test.items() if name not in ("accuracy", "n"))
    typer.echo(
        f"{produced.folder}: test accuracy {produced.test['accuracy']:.4f}{metrics} (n = {int(produced.test['n'])})"
    )
    rows = [[c.name, _number(c.promised), _number(c.outcome), _KEPT[c.kept], c.note] for c in produced.checks]
    _table(["quantity", "promised", "outcome", "kept", "rule"], rows)


@app.command()
def doctor() -> None:
    """Print what this machine has, and which uses lack something."""
    from harness.cli.doctor import report as examine

    for finding in examine():
        typer.echo(f"{finding.name:<17} {finding.found}")
        if finding.missing:
            typer.echo(f"{'':<17} -> {finding.missing}")


@app.command()
def version() -> None:
    """Print the version."""
    from harness import __version__

    typer.echo(__version__)


_UNITS = {"s": 1, "m": 60, "h": 3600}
_ENDED = {
    "complete": "the study is complete.",
    "already complete": "the study was complete before. For more, the same command with a larger --trials.",
    "exhausted": "the study ended: no recipe is left to try, or too many trials failed in a row.",
    "interrupted": "interrupted: what finished is kept, and the same command resumes.",
}
_UNENDED = "not ended: the same search command resumes it"
_KEPT = {True: "yes", False: "NO", None: ""}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _study_folder(space: Path, study: str | None, out: Path | None) -> Path:
    if study is not None and out is not None:
        raise SpaceError("--study", "names results/NAME, and --out a folder", remedy="Give one of the two.")
    name = space.stem if study is None else study
    if not name or name in (".", "..") or Path(name).name != name:
        raise SpaceError("--study", "must be a name without slashes", name, "For another folder use --out.")
    return _new_folder(out or Path("results") / name)


def _new_folder(folder: Path) -> Path:
    """``folder``, if it is a folder or can be made: no part of its path may be a file.

    Raises:
        SpaceError: a part of the path is a file.
    """
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise SpaceError("--out", "must be a folder", str(part), "There is a file of that name.")
    return folder


def _show(study: Study, write: bool) -> None:
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
    """An example of a limit for ``pick``: accuracy 95 %, or the front's median of another quality."""
    name, direction = data.quality.name, data.quality.direction
    if name == "accuracy":
        return "--min-accuracy 95%"
    value = statistics.median(data.front[name].tolist())
    return f"{'--min' if direction == 'maximize' else '--max'} {name}={value:.3g}"


def _table(columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console(markup=False).print(table)
