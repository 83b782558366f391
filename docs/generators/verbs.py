"""docs/reference/cli.md: every verb and its options, from the signatures that typer reads.

typer's own commands are not used, because their attributes differ between its versions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from generators.markdown import GENERATED, inline, table
from harness.cli.main import app

MEANINGS = {"batch_size": "samples per inference", "threads": "of the runtime"}  # of options without a help text
KINDS = {int: "integer", float: "number", str: "text", Path: "path", bool: ""}

INTRO = """# Command line

`harness VERB --help` prints the same. Options may stand before or after the arguments.

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | failure: a full disk, a dead Ray, ten failed trials in a row; `check`: a claim does not hold |
| 2 | a mistake in the request: one message, nothing has run |
| 130, 143 | ended by Ctrl-C, by SIGTERM |

`harness --verbose VERB ...` (`-v`) logs what happens."""


@dataclass(frozen=True)
class Parameter:
    """One argument or option of a verb."""

    name: str
    kind: type
    repeated: bool
    default: Any
    info: Any  # typer's ArgumentInfo or OptionInfo


def page() -> str:
    """The whole page."""
    lines = [GENERATED, "", *INTRO.splitlines()]
    for name, function in sorted(_verbs(app)):
        lines += ["", f"## {name}", "", *_verb(name, function)]
    return "\n".join([*lines, ""])


def _verbs(application: typer.Typer) -> Iterator[tuple[str, Callable[..., Any]]]:
    for command in application.registered_commands:
        assert command.callback is not None
        yield command.name or command.callback.__name__.replace("_", "-"), command.callback
    for group in application.registered_groups:
        assert group.typer_instance is not None
        yield from _verbs(group.typer_instance)


def _verb(name: str, function: Callable[..., Any]) -> list[str]:
    parameters = list(_parameters(function))
    arguments = [p for p in parameters if isinstance(p.info, ArgumentInfo)]
    options = [p for p in parameters if isinstance(p.info, OptionInfo)]
    usage = ["harness", name, *(_metavar(a) for a in arguments), *(["[OPTIONS]"] if options else [])]
    lines = ["```", " ".join(usage), "```", "", inline(inspect.getdoc(function) or "")]
    if arguments:
        lines += ["", *table(["argument", "meaning"], [[f"`{_metavar(a)}`", a.info.help or ""] for a in arguments])]
    if options:
        rows = [[_spelling(o), _value(o), _default(o), o.info.help or MEANINGS.get(o.name, "")] for o in options]
        lines += ["", *table(["option", "value", "default", "meaning"], rows)]
    return lines


def _parameters(function: Callable[..., Any]) -> Iterator[Parameter]:
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        assert get_origin(hint) is Annotated, f"{function.__name__}: {name} has no typer.Option or typer.Argument"
        kind, info = get_args(hint)[:2]
        if isinstance(kind, UnionType):
            kind = next(k for k in get_args(kind) if k is not type(None))
        repeated = get_origin(kind) is list
        yield Parameter(name, get_args(kind)[0] if repeated else kind, repeated, parameter.default, info)


def _metavar(argument: Parameter) -> str:
    return argument.info.metavar or argument.name.upper()


def _spelling(option: Parameter) -> str:
    first = option.info.default  # inside Annotated, the first name that is given to typer.Option
    spellings = [*([first] if isinstance(first, str) else []), *(option.info.param_decls or ())]
    spellings = spellings or [f"--{option.name.replace('_', '-')}"]
    return " ".join(f"`{text}`" for spelling in spellings for text in spelling.split("/"))


def _value(option: Parameter) -> str:
    kind = f"`{option.info.metavar}`" if option.info.metavar else KINDS[option.kind]
    limits = [f">= {option.info.min:g}"] if option.info.min is not None else []
    limits += [f"<= {option.info.max:g}"] if option.info.max is not None else []
    return f"{kind}, `{', '.join(limits)}`" if limits else kind


def _default(option: Parameter) -> str:
    if option.kind is bool:
        return "`--" + f"{option.name}`" if option.default else ""
    return "" if option.default in (None, inspect.Parameter.empty) else f"`{option.default}`"
