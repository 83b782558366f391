"""The cache of teachers and exported graphs: damaged files in it are noticed and made again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.export.template import Templates
from harness.files.checksums import read_cached, write_cached
from harness.models.build import build_model
from harness.recipe import parse_recipe
from harness.registries import REGISTRIES
from harness.train.teacher import teacher_module
from harness.trial import score as scoring

DAMAGE = {
    "empty": lambda data: b"",
    "short": lambda data: data[:-1],
    "long": lambda data: data + b"x",
    "flipped": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "other": lambda data: b"nothing of ours",
}
damaged = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
RECIPE = parse_recipe(
    {
        "task": {"name": "digits"},
        "student": {"model": "mlp", "hidden": [4]},
        "teacher": {"model": "mlp", "hidden": [8], "epochs": 1},
    },
    REGISTRIES,
)


def strike(path: Path, damage) -> None:
    path.write_bytes(damage(path.read_bytes()))


@damaged
def test_a_damaged_file_counts_as_none(tmp_path, damage, caplog):
    path = tmp_path / "a.cached"
    assert read_cached(path) is None and not caplog.text
    write_cached(path, bytes(range(100)))
    assert read_cached(path) == bytes(range(100))
    strike(path, damage)
    assert read_cached(path) is None and f"{path} is damaged: it is made again" in caplog.text


@damaged
def test_a_damaged_teacher_is_trained_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    data = scoring.data_of(RECIPE)
    first = teacher_module(RECIPE, data, "cpu").state_dict()
    [path] = (tmp_path / "teachers").iterdir()
    whole = path.read_bytes()
    strike(path, damage)
    again = teacher_module(RECIPE, data, "cpu").state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first) and path.read_bytes() == whole


@damaged
def test_a_damaged_graph_is_exported_again(tmp_path, damage):
    module = build_model(RECIPE.student, (1, 8, 8), 10, 0)
    first = Templates(tmp_path).get(module, (1, 8, 8), (0.0,), (1.0,))
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    strike(path, damage)
    again = Templates(tmp_path).get(module, (1, 8, 8), (0.0,), (1.0,))
    assert again.to_bytes() == first.to_bytes() and path.read_bytes() == whole
