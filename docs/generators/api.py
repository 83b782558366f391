"""docs/reference/python.md: the public names, their signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import harness
from generators.markdown import GENERATED, docstring
from harness.errors import HarnessError, SpaceError, TrialError
from harness.measure.audit import Audit, LayerAudit
from harness.measure.bench import Bench, Timing
from harness.production import Check, Produced
from harness.report.picks import Pick
from harness.search.driver import Outcome
from harness.search.plan import Plan
from harness.verify.check import Claim

FUNCTIONS = ("search", "open_study", "plan", "load_space", "load_recipe", "train", "bench", "audit", "load")
RESULTS = (Outcome, Plan, Pick, Produced, Check, Bench, Timing, Audit, LayerAudit, Claim)
ERRORS = (HarnessError, SpaceError, TrialError)
WIDTH = 100

INTRO = """# Python

The verbs of the command line call these functions, so a program can do all that they do. `import harness` is fast;
torch is imported when something trains. All names have types.

```python
from pathlib import Path

import harness

study = harness.search("search_spaces/digits.yaml", trials=60)  # the same call resumes
study.front  # pandas: a row for each point
point = study.pick(least={"accuracy": 0.95}, most={"latency_ms": 2})
point.number, point.values, point.model, point.recipe  # the trial, its values, its files
study.report()

study = harness.open_study("results/digits")  # later; runs no code that the study names
study.confirm(seeds=3)
study.check()
harness.train(harness.load_recipe("results/digits/best/knee.yaml"), "deploy")
harness.bench(["a.onnx", "b.onnx"]).timings[1].ratio  # latency of b relative to a
harness.audit("a.onnx").layers
```

[first_front.ipynb](../../examples/first_front.ipynb) is a notebook that searches, plots a front and loads a model."""


def page() -> str:
    """The whole page."""
    missing = set(harness._LAZY) - {*FUNCTIONS, "Study"}
    if missing:
        raise LookupError(f"docs/generators/api.py does not list {sorted(missing)}")
    lines = [GENERATED, "", *INTRO.splitlines(), "", "## Functions"]
    for name in FUNCTIONS:
        lines += ["", f"### harness.{name}", "", *_function(f"harness.{name}", getattr(harness, name))]
    lines += ["", "## harness.Study", "", *docstring(inspect.getdoc(harness.Study) or "")]
    for name, member in _members(harness.Study):
        lines += ["", f"### Study.{name}", "", *member]
    lines += ["", "## Results", "", "What the functions return. They are dataclasses with these fields."]
    for kind in RESULTS:
        lines += ["", f"### {kind.__name__}", "", *_fields(kind), "", *docstring(inspect.getdoc(kind) or "")]
    lines += ["", "## Errors", "", "In `harness.errors`."]
    for kind in ERRORS:
        base = kind.__mro__[1].__name__
        lines += [
            "",
            f"### {kind.__name__}",
            "",
            f"A subclass of `{base}`.",
            "",
            *docstring(inspect.getdoc(kind) or ""),
        ]
    return "\n".join([*lines, ""])


def _function(name: str, function: Callable[..., Any], method: bool = False) -> list[str]:
    return ["```python", *_signature(name, function, method), "```", "", *docstring(inspect.getdoc(function) or "")]


def _signature(name: str, function: Callable[..., Any], method: bool) -> list[str]:
    """On one line if it fits, else one line for each parameter."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1 if method else 0 :]
    parts: list[str] = []
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        default = "" if p.default is p.empty else f" = {'...' if callable(p.default) else repr(p.default)}"
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        parts.append(f"{stars}{p.name}: {_type(str(p.annotation))}{default}")
    returned = f" -> {_type(str(signature.return_annotation))}"
    line = f"{name}({', '.join(parts)}){returned}"
    if len(line) <= WIDTH:
        return [line]
    return [f"{name}(", *(f"    {part}," for part in parts), f"){returned}"]


def _type(text: str) -> str:
    """An annotation without the names of modules."""
    return re.sub(r"\b(protocol|pd|onnx)\.", "", text)


def _members(kind: type) -> Iterator[tuple[str, list[str]]]:
    """The public methods and properties, in the order of the source."""
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        getter = getattr(member, "fget", None) or getattr(member, "func", None)
        if getter is not None:
            returned = _type(str(inspect.signature(getter).return_annotation))
            yield name, [f"`{returned}`", "", *docstring(inspect.getdoc(getter) or "")]
        elif inspect.isfunction(member):
            yield name, _function(name, member, method=True)


def _fields(kind: type) -> list[str]:
    names = [f"{name}: {_type(str(text))}" for name, text in kind.__annotations__.items() if not name.startswith("_")]
    return ["```python", *names, "```"]
