"""An old (British) spelling in a space, a recipe or an old study is answered with the new one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import SpaceError
from harness.methods import RESPELLED
from harness.registries import REGISTRIES
from harness.space.space import load_recipe, load_space
from tests.spaces import BASE, mistake, write

ROOT = Path(__file__).parent.parent
KEY, METHOD = "`regularise` is spelled `regularize`.", "`standardised` is spelled `standardized`."
RECIPE = "task: {name: digits}\nstudent: {model: mlp}\n"
PRUNED = "\n  choice:\n    - {kind: none}\n    - {kind: channel, ratio: 0.5, regularise: l1}"


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"quant": "{kind: standardised, bits: 3}"}, f":4: quant.kind: unknown name, but got 'standardised'. {METHOD}"),
        ({"quant": "{kind: {choice: [lsq, standardised]}, bits: 3}"}, f"but got 'standardised'. {METHOD}"),
        (
            {"quant": "{kind: {choice: [lsq, standardized], default: standardised}, bits: 3}"},
            f":4: quant.kind.default: must be one of the choices, but got 'standardised'. {METHOD}",
        ),
        ({"quant": "{choice: [{bits: 32}, {kind: standardised, bits: 3}]}"}, ":4: quant.kind: unknown name, but got"),
        ({"prune": "{kind: none, regularise: l1}"}, f":4: prune.regularise: unknown key. {KEY}"),
        ({"prune": "{kind: channel, ratio: 0.5, regularise: {choice: [none, l1]}}"}, f"unknown key. {KEY}"),
        ({"prune": PRUNED}, f":7: prune.regularise: unknown key. {KEY}"),
        (
            {
                "quant": "{choice: [{bits: 32}, {kind: standardized, bits: 3}]}",
                "first": "[{quant: {kind: standardised}}]",
            },
            f":5: first.0.quant.kind: must be a value that the space can take there, but got 'standardised'. {METHOD}",
        ),
        (
            {
                "prune": "{kind: none, regularize: {choice: [none, l1]}}",
                "first": "[{prune: {regularise: l1}}]",
            },
            f":5: first.0.prune.regularise: must be a value that the space can take there, but got 'l1'. {KEY}",
        ),
    ],
    ids=lambda v: str(v)[:60],
)
def test_a_space(tmp_path: Path, sections: dict[str, str], expected: str) -> None:
    text = mistake(tmp_path, **sections)
    assert text.startswith(str(tmp_path / "space.yaml")) and expected in text
    assert KEY in text or METHOD in text


def test_an_override(tmp_path: Path) -> None:
    text = mistake(tmp_path, ("prune.regularise=l1",), prune="{kind: none}")
    assert f"option `prune.regularise=l1`: prune.regularise: unknown key. {KEY}" in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "prune: {kind: none, regularise: none, on: weights}",
            f"prune.regularise: unknown key. {KEY}",
        ),
        ("quant: {kind: standardised, bits: 3}", f"quant.kind: unknown name, but got 'standardised'. {METHOD}"),
    ],
)
def test_a_recipe(tmp_path: Path, line: str, expected: str) -> None:
    path = write(tmp_path, f"{RECIPE}{line}\n")
    with pytest.raises(SpaceError) as caught:
        load_recipe(path)
    assert f"{path}:3: {expected}" in str(caught.value)


def test_names_of_the_users_own_are_theirs(tmp_path: Path) -> None:
    own = "{model: 'my.nets:standardised', regularise: 1, width: {choice: [1, 2]}}"
    layers = "{bits: {default: 4, standardised: 8}}"
    lines = {**BASE, "student": own, "quant": layers}
    load_space(write(tmp_path, "".join(f"{k}: {v}\n" for k, v in lines.items())))


def test_no_declaration_has_an_old_spelling() -> None:
    methods = [REGISTRIES.clips, REGISTRIES.pruners, REGISTRIES.quantizers, REGISTRIES.distills]
    names = {name for registry in methods for name in registry}
    names |= {name for registry in methods for method in registry.values() for name in method.options}
    assert not names & set(RESPELLED) and set(RESPELLED.values()) <= names


def named(pattern: str) -> list[Any]:
    """The files of the reference fronts."""
    folder = ROOT / "results" / "reference"
    return [pytest.param(path, id=str(path.relative_to(folder))) for path in sorted(folder.glob(pattern))]


@pytest.mark.parametrize("path", named("*/best/*.yaml"))
def test_the_reference_fronts_recipes_load(path: Path) -> None:
    space = yaml.safe_load((path.parents[1] / "space.yaml").read_text())
    assert load_recipe(path).student.name == space["student"]["model"]


@pytest.mark.parametrize("path", named("*/space.yaml"))
def test_the_reference_fronts_spaces_load_with_their_fingerprints(path: Path) -> None:
    found = load_space(path).fingerprint()
    assert found == json.loads((path.parent / "study.json").read_text())["fingerprint"]
