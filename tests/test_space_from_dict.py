"""A search space from a dict, and one that is changed after it was loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from harness.errors import SpaceError
from harness.space.space import load_space

DICT: dict[str, Any] = {"task": {"name": "digits"}, "student": {"model": "mlp", "hidden": {"choice": [[8], [16]]}}}
SHIPPED = sorted((Path(__file__).parent.parent / "search_spaces").rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_a_space_from_a_dict_is_that_of_the_file(path: Path) -> None:
    tree = YAML(typ="safe").load(path)
    space, same = load_space(tree, overrides=["search.trials=7"]), load_space(path, overrides=["search.trials=7"])
    assert space.fingerprint() == same.fingerprint() and space.file == ""
    assert (space.settings, space.objectives, space.constraints) == (same.settings, same.objectives, same.constraints)
    assert [h.name for h in space.holes] == [h.name for h in same.holes]


def test_tuples_and_paths_in_a_dict_are_lists_and_text(tmp_path: Path) -> None:
    tree = {
        "task": {"name": "arrays", "train": tmp_path / "a.npz", "test": tmp_path / "b.npz"},
        "student": {"model": "mlp", "hidden": {"choice": ((8,), (16,))}},
    }
    space = load_space(tree)
    assert space.source.tree["task"]["train"] == str(tmp_path / "a.npz")
    assert space.fill({"student.hidden": 1}).student.options["hidden"] == [16]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            np.float64(0.1),
            "train.lr: must be text, a number, a boolean, None, a list or a dict, but got 'numpy.float64'",
        ),
        ({"float": [0.1, np.float32(1)]}, "train.lr.float.1: must be text"),
        ({"float": [1, 0.1]}, "train.lr"),
        (True, "train.lr"),
    ],
)
def test_a_mistake_in_a_dict_is_named(value: Any, expected: str) -> None:
    with pytest.raises(SpaceError) as caught:
        load_space({**DICT, "train": {"lr": value}})
    assert str(caught.value).startswith(expected) and ".yaml" not in str(caught.value)


def test_a_dict_within_itself_is_refused() -> None:
    tree: dict[str, Any] = {**DICT}
    tree["train"] = tree
    with pytest.raises(SpaceError, match="must be nested less than 50 deep"):
        load_space(tree)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_a_changed_space_is_that_loaded_with_the_change(path: Path) -> None:
    space = load_space(path)
    changed, loaded = space.changed(["search.trials=7"]), load_space(path, overrides=["search.trials=7"])
    assert changed.settings.trials == 7 and changed.text == loaded.text and changed.settings == loaded.settings
    assert space.settings == load_space(path).settings, "the first space stays as it was"
    assert space.changed([]) is space


def test_a_wrong_change_names_its_option() -> None:
    with pytest.raises(SpaceError, match=r"option `search.trials=0`: search\.trials: must be an integer"):
        load_space(DICT).changed(["search.trials=0"])


def test_a_password_in_a_urls_query_is_masked_and_nothing_else() -> None:
    tree = {
        "task": {"name": "digits"},
        "student": {"model": "mlp"},
        "quant": {"bits": {"choice": [4, 8]}},
        "search": {"storage": "postgresql://h/db?user=u&password=topsecret", "trials": 5},
    }
    space = load_space(tree)
    assert "topsecret" not in space.text and space.settings.trials == 5
