"""A recipe: its defaults, its way to a tree and back, and what it refuses."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harness.errors import SpaceError
from harness.methods import Method, Param, load_target, nearest
from harness.recipe import Recipe, key_of, parse_recipe
from harness.registries import REGISTRIES
from harness.space.space import load_recipe
from harness.train.teacher import teacher_key

MINIMAL: dict[str, Any] = {"task": {"name": "digits"}, "student": {"model": "mlp"}}
FULL: dict[str, Any] = {
    "task": {"name": "digits", "validation": 0.2},
    "teacher": {"model": "convnet", "width": 32, "epochs": 3, "lr": 0.1, "seed": 5},
    "student": {"model": "mlp", "hidden": [32, 16], "checkpoint": "start.safetensors"},
    "train": {"epochs": 4, "lr": 1, "optimizer": "adamw"},
    "clip": {"kind": "norm", "threshold": 1},
    "prune": {"kind": "weight", "ratio": 0.5},
    "quant": {"bits": 4},
    "distill": {"kind": "logits", "weight": 0.5},
    "deploy": {"threads": 2},
    "seed": 7,
}


def parse(tree: Any) -> Recipe:
    return parse_recipe(tree, REGISTRIES)


def mistake(**sections: Any) -> str:
    with pytest.raises(SpaceError) as caught:
        parse({**MINIMAL, **sections})
    return str(caught.value)


def test_a_minimal_recipe_has_every_technique_off() -> None:
    recipe = parse(MINIMAL)
    assert recipe.teacher is None and recipe.student.options == {"hidden": [128]}
    assert [recipe.clip.name, recipe.prune.name, recipe.distill.name] == ["none"] * 3
    assert recipe.quant.name == "uniform" and recipe.quant.options["bits"] == 32


@pytest.mark.parametrize("tree", [MINIMAL, FULL], ids=["minimal", "full"])
def test_to_tree_and_back(tree: dict[str, Any]) -> None:
    recipe = parse(tree)
    assert parse(recipe.to_tree()) == recipe
    assert parse(recipe.to_tree()).key() == recipe.key() == key_of(json.loads(json.dumps(recipe.to_tree())))


def test_a_recipe_goes_to_another_process_and_comes_back_equal() -> None:
    recipe = parse(FULL)
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_keys_stay_those_of_older_versions() -> None:
    """Studies know their recipes, and the cache its teachers, by these."""
    recipe = parse(FULL)
    assert recipe.key() == "40f52484f195fec8d4d05aee3e837a53" and recipe.teacher is not None
    assert teacher_key(recipe.teacher, "f") == "7a068e7c097a9d912372228f"


def test_yaml_and_back(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    tree = {**parse(FULL).to_tree(), "promise": {"accuracy": 0.9}}
    with open(path, "w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(tree, file)
    assert load_recipe(path) == parse(FULL)


def test_flat_has_dotted_names_and_plain_leaves() -> None:
    flat = parse(FULL).flat()
    assert flat["student.hidden"] == [32, 16] and flat["clip.threshold"] == 1.0
    assert type(flat["clip.threshold"]) is float and flat["teacher.lr"] == 0.1 and flat["seed"] == 7


def test_key_ignores_the_seed_only() -> None:
    assert parse({**FULL, "seed": 8}).key() == parse(FULL).key()
    assert parse({**FULL, "quant": {"bits": 3}}).key() != parse(FULL).key()


def test_a_student_can_be_its_own_teacher() -> None:
    recipe = parse({**FULL, "teacher": "self"})
    assert recipe.teacher is not None and recipe.teacher.model == recipe.student
    assert parse(recipe.to_tree()) == recipe
    assert "`self` needs a student that starts from a checkpoint" in mistake(teacher="self")


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        parse(MINIMAL).seed = 3  # type: ignore[misc]


def test_own_functions_take_any_option() -> None:
    recipe = parse({"task": {"name": "my.data:load", "size": 3}, "student": {"model": "my.nets:small", "depth": 2}})
    assert recipe.task.options == {"size": 3} and recipe.student.options == {"depth": 2}
    assert "clip.kind: unknown name" in mistake(clip={"kind": "my.clips:f"})


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"trian": {}}, "trian: unknown section. Did you mean 'train'?"),
        ({"student": {"model": "mpl"}}, "student.model: unknown name, but got 'mpl'. Did you mean 'mlp'?"),
        ({"student": {}}, "student.model: unknown name, but got None"),
        ({"student": {"model": ["mlp"]}}, "student.model: unknown name, but got ['mlp']"),
        ({"student": {"model": "mlp", "hiden": [3]}}, "student.hiden: unknown key. Did you mean 'hidden'?"),
        (
            {"student": {"model": "mlp", "hidden": []}},
            "student.hidden: must be a list of at least one integer",
        ),
        ({"student": {"model": "mlp", "hidden": 64}}, "student.hidden: must be a list"),
        ({"student": {"model": "mlp", "hidden": [64, 0]}}, "student.hidden.1: must be"),
        ({"student": {"model": "mlp", "hidden": [True]}}, "student.hidden.0: must be"),
        ({"student": {"model": "mlp", "checkpoint": 3}}, "student.checkpoint: must be the path"),
        ({"student": "mlp"}, "student: must be a mapping, but got 'mlp'"),
        ({"clip": {"kind": "norm"}}, "clip.threshold: is required and must be a number with 0 < value"),
        (
            {"clip": {"kind": "norm", "threshold": 0}},
            "clip.threshold: must be a number with 0 < value, but got 0",
        ),
        ({"clip": None}, "clip: must be a mapping, but got None"),
        (
            {"prune": {"kind": "channel", "ratio": 1}},
            "prune.ratio: must be a number with 0 <= value < 1, but got 1",
        ),
        ({"prune": {"kind": "channel", "ratio": "0.5"}}, "but got '0.5'"),
        ({"quant": {"bits": 9}}, "quant.bits: must be one of 1, 2, 3, 4, 5, 6, 7, 8, 32, but got 9"),
        ({"quant": {"bits": 8.0}}, "quant.bits: must be one of"),
        ({"distill": {"kind": "logits", "weight": 0.5}}, "distill.kind: 'logits' needs a teacher"),
        ({"train": {"epochs": 0}}, "train.epochs: must be an integer with 1 <= value, but got 0"),
        ({"train": {"epochs": "5"}}, "train.epochs: must be an integer with 1 <= value, but got '5'"),
        ({"train": {"epochs": 5.0}}, "train.epochs: must be an integer with 1 <= value, but got 5.0"),
        ({"train": {"lr": "0.1"}}, "train.lr: must be a number with 0 < value, but got '0.1'"),
        ({"train": {"lr": float("nan")}}, "train.lr: must be a number with 0 < value, but got nan"),
        ({"train": {"momentum": True}}, "train.momentum: must be a number with 0 <= value < 1, but got True"),
        ({"teacher": {"model": "mlp", "lr": -1}}, "teacher.lr: must be a number with 0 < value, but got -1"),
        ({"teacher": {"model": "mlp", "seed": -1}}, "teacher.seed: must be an integer with 0 <= value"),
        (
            {"deploy": {"runtime": "tflite"}},
            "deploy.runtime: unknown name, but got 'tflite'. Known: onnxruntime, ",
        ),
        ({"deploy": {"thread": 1}}, "deploy.thread: unknown key. Did you mean 'threads'?"),
        ({"seed": -1}, "seed: must be an integer with 0 <= value, but got -1"),
        ({"seed": True}, "but got True"),
    ],
)
def test_mistakes(sections: dict[str, Any], expected: str) -> None:
    assert expected in mistake(**sections)


@pytest.mark.parametrize("missing", ["task", "student"])
def test_needed_sections(missing: str) -> None:
    with pytest.raises(SpaceError, match=f"{missing}: a recipe needs this section"):
        parse({k: v for k, v in MINIMAL.items() if k != missing})


def test_not_a_mapping() -> None:
    with pytest.raises(SpaceError, match="a recipe must be a mapping of sections"):
        parse([1])


def test_load_recipe_refuses_holes_and_spaces(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("task: {name: digits}\nstudent:\n  model: mlp\n  hidden: [{choice: [3, 4]}]\n")
    with pytest.raises(SpaceError) as caught:
        load_recipe(path)
    assert f"{path}:4: student.hidden.0: a recipe has no holes" in str(caught.value)
    assert f"use `harness search {path}`" in str(caught.value)
    path.write_text("task: {name: digits}\nstudent: {model: mlp}\nsearch: {trials: 3}\n")
    with pytest.raises(SpaceError, match=r":3: search: does not belong in a recipe.*harness search"):
        load_recipe(path)


def test_load_recipe_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("task: {name: digits}\nstudent:\n  model: mlp\n  hidden:\n    - 3\n    - x\n")
    with pytest.raises(SpaceError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}:6: student.hidden.1: must be")


def test_params_convert_and_check() -> None:
    assert Param(float).check("x", 3) == 3.0 and type(Param(float).check("x", 3)) is float
    assert Param(str, choices=("a", "b")).check("x", "a") == "a"
    with pytest.raises(SpaceError, match=r"x: must be true or false, but got 1"):
        Param(bool).check("x", 1)
    with pytest.raises(SpaceError, match=r"x: must be an integer with 1 <= value <= 3, but got 4. The default is 2."):
        Param(int, 2, low=1, high=3).check("x", 4)
    with pytest.raises(SpaceError, match="must be a number"):
        Param(float).check("x", 10**400)


def test_targets_are_imported_by_name() -> None:
    assert Method("math:sqrt").load()(4) == 2
    with pytest.raises(SpaceError, match=r"task.name: cannot import 'no_such:f' \(ModuleNotFoundError"):
        load_target("no_such:f", "task.name")
    with pytest.raises(SpaceError, match="cannot import 'math:nothing'"):
        load_target("math:nothing")
    with pytest.raises(SpaceError, match="must be a function, but got 3.14"):
        load_target("math:pi")


def test_an_error_survives_pickling() -> None:
    for error in (
        SpaceError("a.b", "unknown key", remedy="R."),
        SpaceError("a", "must be", 3, file="f", line=2),
    ):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_nearest() -> None:
    assert nearest("treshold", ["ratio", "threshold"]) == "Did you mean 'threshold'? Known: ratio, threshold."
    assert nearest("qqq", ["a", "b"]) == "Known: a, b."
