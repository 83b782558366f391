"""docs/reference/spaces.md: every key that a space or a recipe may have, from the declarations."""

from __future__ import annotations

import ast
import importlib.util
import math
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from generators.markdown import GENERATED, inline, table
from harness.methods import FLOAT_BITS, REQUIRED, Method, Param, declarations
from harness.recipe import DEPLOY, IGNORED, TRAIN
from harness.recipe import SECTIONS as RECIPE
from harness.records import BASELINES, DIRECTIONS
from harness.registries import REGISTRIES
from harness.space.reader import MAX_CHOICES, MAX_HOLES
from harness.space.settings import MAX_OBJECTIVES, Resources, Settings
from harness.space.settings import SECTIONS as SEARCH
from harness.trackers import TRACKERS

OWN = "`package.module:function`"
# Meanings of keys whose declaration states none.
MEANINGS = {
    "split_seed": "seed of the split into training and validation",
    "root": "folder of the data set; empty: `HARNESS_DATA`, then the cache",
    "download": "get the data set if it is not there",
}
# Methods that share the function of another one.
OTHER_KINDS = {"pact": "The weights of `dorefa`, and by default the activations of PACT."}


@dataclass(frozen=True)
class Row:
    """One key: who has it, its values, its default, what it means."""

    key: str
    of: tuple[str, ...]
    values: str
    default: str
    meaning: str


def page() -> str:
    """The whole page."""
    intro = (Path(__file__).parent / "spaces_intro.md").read_text().strip()
    lines = [GENERATED, "", *intro.splitlines(), ""]
    for section in (*RECIPE, *SEARCH):
        if section not in SECTIONS:
            raise LookupError(f"docs/generators/spaces.py has no text for the section `{section}`")
        lines += [f"## {section}", "", *SECTIONS[section], ""]
    [promise] = IGNORED
    lines += [
        f"## {promise}",
        "",
        "Only in a recipe of `best/`: the values that the search measured. `harness train` compares its outcome with",
        "them. They are no part of the recipe.",
        "",
        "## Limits",
        "",
        f"A space has at most {MAX_HOLES} holes, and a choice at most {MAX_CHOICES} entries.",
    ]
    return "\n".join([*lines, ""])


def values(param: Param) -> str:
    """Type and range of a parameter."""
    kind = {int: "integer", float: "number", str: "text", bool: "`true` or `false`", list: "list of integers"}
    if param.choices:
        text = " ".join(f"`{c}`" for c in param.choices)
    else:
        left = "" if param.low == -math.inf else f"{param.low:.10g} {'<' if param.low_open else '<='} "
        right = "" if param.high == math.inf else f" {'<' if param.high_open else '<='} {param.high:.10g}"
        text = kind[param.type] + (f", `{left}x{right}`" if left or right else "")
    return text + ("; one, or one for each layer" if param.by_layer else "")


def default(param: Param) -> str:
    """The default of a parameter."""
    if param.default is REQUIRED:
        return "required"
    if param.default is None:
        return "none"
    if isinstance(param.default, bool):
        return f"`{str(param.default).lower()}`"
    if isinstance(param.default, float):
        return f"`{param.default:.4g}`"
    return "empty" if param.default == "" else f"`{param.default}`"


def rows_of(params: Mapping[str, Param], of: tuple[str, ...] = ()) -> list[Row]:
    """A row for each declared key."""
    return [Row(n, of, values(p), default(p), p.doc or MEANINGS.get(n, "")) for n, p in params.items()]


def merged(registry: Mapping[str, Method]) -> list[Row]:
    """The options of all methods of a registry; equal ones of several methods share a row."""
    found: dict[tuple[str, ...], Row] = {}
    for name, method in registry.items():
        for row in rows_of(method.options, (name,)):
            same = (row.key, row.values, row.default, row.meaning)
            earlier = found[same].of if same in found else ()
            found[same] = Row(row.key, (*earlier, name), *same[1:])
    order = list(dict.fromkeys(row.key for row in found.values()))
    rows = (replace(row, of=_shortly(row.of, registry)) for row in found.values())
    return sorted(rows, key=lambda row: order.index(row.key))


def _shortly(of: tuple[str, ...], registry: Mapping[str, Method]) -> tuple[str, ...]:
    """``all`` or ``all but none``, where that is shorter than the list of names."""
    if len(of) == len(registry):
        return ("all",)
    return ("all but `none`",) if len(of) > 1 and {*of, "none"} == set(registry) else of


def shown(rows: Iterable[Row], of: str = "") -> list[str]:
    """The table of keys; ``of`` heads the column of methods."""
    head = ["key", *([of] if of else []), "values", "default", "meaning"]
    cells = [[f"`{r.key}`", *([", ".join(r.of)] if of else []), *astuple(r)[2:]] for r in rows]
    return table(head, cells)


def described(registry: Mapping[str, Method], head: str) -> list[str]:
    """A table of the methods: name and the first sentence of the function's docstring."""
    return table([f"`{head}`", "what it does"], [[f"`{n}`", _first_sentence(n, m)] for n, m in registry.items()])


def _first_sentence(registered: str, method: Method) -> str:
    """Read from the source, because importing a technique imports torch."""
    module, _, name = method.target.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            text = OTHER_KINDS.get(registered) or (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
            return inline(text)
    return ""


def _technique(registry: Mapping[str, Method], kind: Row, note: str) -> list[str]:
    keys = shown([kind, *merged(registry)], "kinds")
    return [note, "", *described(registry, "kind"), "", *keys]


def _kind(registry: Mapping[str, Method], value: str) -> Row:
    return Row("kind", ("all",), "a name of the table above", value, "the method")


def _names(registry: Mapping[str, Method]) -> str:
    return f"{' '.join(f'`{name}`' for name in registry)}, or {OWN}"


_WEIGHTS = "a `.safetensors` or `torch.save` file of weights"
_R = REGISTRIES
_OFF = "Without the section: `none`."
_MORE = "Formulas and sources: [techniques](../techniques.md"
_QUANTITIES = " ".join(f"`{n}` ({d})" for n, d in DIRECTIONS.items())

SECTIONS: dict[str, list[str]] = {
    "task": [
        f"Required. Cannot contain holes. With a function of yours ({OWN}), all other keys are its keyword arguments.",
        "",
        *described(_R.tasks, "name"),
        "",
        *shown(
            [
                Row("name", ("all",), _names(_R.tasks), "required", "the data"),
                Row(
                    "normalize",
                    ("all",),
                    "`auto`, `none` or `{mean: .., std: ..}`",
                    "`auto`",
                    "mean and deviation of the network's input, see [own data](../howto/own_data.md#normalization)",
                ),
                *merged(_R.tasks),
            ],
            "tasks",
        ),
    ],
    "teacher": [
        "Without the section nothing can be distilled. `teacher: self` takes the student's checkpoint as the teacher.",
        "Otherwise the section has the model's options as in [student](#student), the keys of [train](#train) with the",
        "same defaults, and:",
        "",
        *shown(
            [
                Row("model", (), _names(_R.models), "required", "the network"),
                Row("checkpoint", (), "text", "none", f"{_WEIGHTS}; the teacher is then not trained"),
                Row("clip", (), "as [clip](#clip)", "`{kind: none}`", "clipping in the teacher's training"),
                Row("seed", (), "integer, `0 <= x`", "`0`", "of the teacher's training"),
            ]
        ),
    ],
    "student": [
        f"Required. With a function of yours ({OWN}), all other keys are its keyword arguments.",
        "",
        *described(_R.models, "model"),
        "",
        *shown(
            [
                Row("model", ("all",), _names(_R.models), "required", "the network"),
                Row("checkpoint", ("all",), "text", "none", f"{_WEIGHTS} to start from"),
                *merged(_R.models),
            ],
            "models",
        ),
    ],
    "train": ["How students are trained.", "", *shown(rows_of(TRAIN))],
    "clip": _technique(_R.clips, _kind(_R.clips, "required"), f"{_OFF} {_MORE}#clip)."),
    "prune": _technique(_R.pruners, _kind(_R.pruners, "required"), f"{_OFF} {_MORE}#prune)."),
    "quant": _technique(
        _R.quantizers, _kind(_R.quantizers, "`uniform`"), f"Without the section: {FLOAT_BITS} bits. {_MORE}#quantize)."
    ),
    "distill": _technique(_R.distills, _kind(_R.distills, "required"), f"{_OFF} {_MORE}#distill)."),
    "deploy": [
        "How the exported file is stored, run and timed.",
        "",
        *described(_R.runtimes, "runtime"),
        "",
        *shown(replace(row, values=_names(_R.runtimes)) if row.key == "runtime" else row for row in rows_of(DEPLOY)),
    ],
    "seed": ["An integer from 0, only in a recipe (default 0). In a space the search gives every trial its seed."],
    "search": [
        "How the search runs. [Searching](../searching.md) explains the rules.",
        "",
        *shown(rows_of(declarations(Settings))),
    ],
    "resources": [
        "What one slot needs; a slot trains one trial, or one group of lanes.",
        "",
        *shown(rows_of(declarations(Resources))),
    ],
    "objectives": [
        f"A list of at most {MAX_OBJECTIVES} quantities. Default: `[accuracy, size_bytes, latency_ms]`. Known:",
        f"{_QUANTITIES}. A metric of your task is written `{{name: recall, direction: maximize}}`.",
    ],
    "constraints": [
        "A mapping of quantity to `{max: NUMBER}`, `{min: NUMBER}` or both. Default: none. Known quantities: those of",
        "[objectives](#objectives), the study's objectives and, with a task function of yours, its metrics.",
    ],
    "first": [
        "A list of partial recipes to try first. Default: none. Each value must be one that the space can take.",
        "`name` is an optional text that the report shows; it must not be that of a baseline "
        f"({', '.join(f'`{b}`' for b in BASELINES)}).",
    ],
    "track": [
        "The name of a tracker, or a list of names. Default: none. Each logs every trial besides the study's folder:",
        f"{', '.join(f'`{t}`' for t in TRACKERS)}, or one of another package ([trackers](../howto/trackers.md)).",
    ],
}
