"""Spaces and recipes are answered in one dialect: file and line, dotted name, rule, value, remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import SpaceError
from harness.files.checksums import write_checked_json
from harness.records import parse_record
from harness.space.space import load_recipe, load_space
from tests.spaces import write

FOREIGN = ("validation error", "input should be", "pydantic", "field required", "value error", "extra inputs")
SECTIONS = {"task": "{name: digits}", "student": "{model: convnet, width: 8}"}
SEARCHED = {**SECTIONS, "quant": "{bits: {choice: [4, 8]}}"}

# section replaced -> where it is told, the rule, what was got
WRONG: list[tuple[str, str, str, str, str]] = [
    ("train", "{epochs: five}", "train.epochs", "must be an integer with 1 <= value", "'five'. The default is 10."),
    ("train", "{epochs: 2.0}", "train.epochs", "must be an integer with 1 <= value", "2.0"),
    ("train", "{epochs: 0}", "train.epochs", "must be an integer with 1 <= value", "0"),
    ("train", "{batch_size: [64]}", "train.batch_size", "must be an integer with 1 <= value", "[64]"),
    ("train", "{lr: .nan}", "train.lr", "must be a number with 0 < value", "nan"),
    ("train", "{lr: .inf}", "train.lr", "must be a number with 0 < value", "inf"),
    ("train", "{lr: {}}", "train.lr", "must be a number with 0 < value", "{}"),
    ("train", "{momentum: 1}", "train.momentum", "must be a number with 0 <= value < 1", "1. The default is 0.9."),
    ("train", "{momentum: true}", "train.momentum", "must be a number with 0 <= value < 1", "True"),
    ("train", "{optimizer: adm}", "train.optimizer", "must be one of sgd, adamw", "'adm'. The default is 'sgd'."),
    ("train", "{schedule: }", "train.schedule", "must be one of cosine, constant", "None"),
    ("train", "[epochs, 3]", "train", "must be a mapping", "['epochs', 3]. Keys: epochs, batch_size, lr,"),
    ("train", "", "train", "must be a mapping", "None. Keys: epochs,"),
    ("deploy", "{threads: 0}", "deploy.threads", "must be an integer with 1 <= value", "0. The default is 1."),
    ("deploy", "{format: onx}", "deploy.format", "must be one of onnx, packed", "'onx'"),
    ("deploy", "{runtime: 3}", "deploy.runtime", "must be a text", "3. The default is 'onnxruntime'."),
    ("teacher", "{model: mlp, lr: -1}", "teacher.lr", "must be a number with 0 < value", "-1"),
    ("teacher", "{}", "teacher.model", "unknown name", "None. Known: mlp,"),
    ("student", "{}", "student.model", "unknown name", "None. Known: mlp,"),
    ("student", "[mlp]", "student", "must be a mapping", "['mlp']. Example: {model: mlp}."),
    ("clip", "[norm, 1]", "clip", "must be a mapping", "['norm', 1]. Example: {kind: none}."),
    ("clip", "{kind: norm, threshold: .nan}", "clip.threshold", "must be a number with 0 < value", "nan"),
    ("task", "{name: digits, normalize: {mean: .nan, std: 1}}", "task.normalize.mean", "must be a finite", "nan"),
]
UNKNOWN = [
    ("train", "{epohcs: 3}", "train.epohcs: unknown key. Did you mean 'epochs'?"),
    ("deploy", "{thread: 3}", "deploy.thread: unknown key. Did you mean 'threads'?"),
    ("trian", "{epochs: 3}", "trian: unknown section. Did you mean 'train'?"),
    ("clip", "{kind: norm}", "clip.threshold: is required and must be a number with 0 < value. Add `threshold:`."),
]


def answer(load: Any, path: Path, sections: dict[str, str]) -> str:
    write(path.parent, "".join(f"{name}: {value}\n" for name, value in sections.items()))
    with pytest.raises(SpaceError) as caught:
        load(path)
    text = str(caught.value)
    assert not [word for word in FOREIGN if word in text.lower()], text
    return text


@pytest.mark.parametrize("load", [load_space, load_recipe])
@pytest.mark.parametrize(("section", "value", "where", "rule", "got"), WRONG, ids=lambda v: str(v)[:30])
def test_a_wrong_value(tmp_path: Path, load: Any, section: str, value: str, where: str, rule: str, got: str) -> None:
    path = tmp_path / "space.yaml"
    sections = {**(SEARCHED if load is load_space else SECTIONS), section: value}
    text = answer(load, path, sections)
    line = list(sections).index(section) + 1
    assert text.startswith(f"{path}:{line}: {where}: {rule}") and f", but got {got}" in text, text


@pytest.mark.parametrize("load", [load_space, load_recipe])
@pytest.mark.parametrize(("section", "value", "expected"), UNKNOWN)
def test_a_name_that_is_unknown_or_missing(tmp_path: Path, load: Any, section: str, value: str, expected: str) -> None:
    sections = {**(SEARCHED if load is load_space else SECTIONS), section: value}
    assert expected in answer(load, tmp_path / "space.yaml", sections)


@pytest.mark.parametrize("load", [load_space, load_recipe])
@pytest.mark.parametrize("missing", ["task", "student"])
def test_a_missing_section(tmp_path: Path, load: Any, missing: str) -> None:
    sections = {k: v for k, v in (SEARCHED if load is load_space else SECTIONS).items() if k != missing}
    text = answer(load, tmp_path / "space.yaml", sections)
    assert f"{missing}: a recipe needs this section. Add `{missing}:`." in text


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("{trials: ten}", "search.trials: must be an integer with 1 <= value, but got 'ten'"),
        ("{trials: }", ""),
        ("[trials]", "search: must be a mapping, but got ['trials']. Keys: trials,"),
        ("{retries: }", "search.retries: must be an integer with 0 <= value, but got None. The default is 1."),
    ],
)
def test_the_sections_of_a_search_are_told_alike(tmp_path: Path, search: str, expected: str) -> None:
    path = write(tmp_path, "".join(f"{k}: {v}\n" for k, v in {**SEARCHED, "search": search}.items()))
    if expected:
        assert expected in answer(load_space, path, {**SEARCHED, "search": search})
    else:
        assert load_space(path).settings.trials is None


def test_a_range_that_leaves_its_rule_names_the_end(tmp_path: Path) -> None:
    text = answer(load_space, tmp_path / "space.yaml", {**SECTIONS, "train": "{lr: {float: [-1, 1]}}"})
    assert ":3: train.lr: must be a number with 0 < value over the hole's whole range, but got -1.0." in text


@pytest.mark.parametrize("verb", ["train", "search"])
def test_the_command_line_says_the_same(tmp_path: Path, verb: str) -> None:
    path = write(tmp_path, "".join(f"{k}: {v}\n" for k, v in {**SECTIONS, "train": "{epochs: x}"}.items()))
    if verb == "search":
        path.write_text(path.read_text() + "quant: {bits: {choice: [4, 8]}}\n")
    ended = CliRunner().invoke(app, [verb, str(path)])
    said = " ".join(ended.output.split())
    assert ended.exit_code == 2 and "train.epochs: must be an integer with 1 <= value, but got 'x'" in said
    assert not [word for word in FOREIGN if word in said.lower()]


def test_a_record_that_is_none_is_told_in_the_same_words(tmp_path: Path) -> None:
    write_checked_json(tmp_path / "record.json", {"number": 3, "status": "ok", "recipe": {}, "seed": "x"})
    with pytest.raises(ValueError, match="seed: must be an integer, but got 'x'") as caught:
        parse_record(tmp_path)
    assert not [word for word in FOREIGN if word in str(caught.value).lower()]
