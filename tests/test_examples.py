"""The examples: each space is valid, and the user's code in it does what its page says."""

from pathlib import Path

import pytest
import torch

from harness.models.build import build_model
from harness.space.space import load_space
from harness.tasks.data import load_data

ROOT = Path(__file__).resolve().parents[1]
SPACES = sorted((ROOT / "examples").glob("*/space.yaml"))


@pytest.fixture(autouse=True)
def from_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    from examples.compress_checkpoint import train_mine

    monkeypatch.setattr(train_mine, "WEIGHTS", tmp_path / "mine.safetensors")
    train_mine.main(epochs=1)
    return train_mine.WEIGHTS


@pytest.mark.parametrize("file", SPACES, ids=lambda f: f.parent.name)
def test_baselines_of_each_example_can_be_built(file, weights):
    mine = [f"student.checkpoint={weights}"] if file.parent.name == "compress_checkpoint" else []
    space = load_space(file, overrides=mine)
    recipes = [baseline.recipe for baseline in space.baselines()]
    assert recipes
    data = load_data(recipes[0].task)
    for recipe in recipes:
        module = build_model(recipe.student, data.input_shape, data.classes, recipe.seed)
        assert module(data.test[0][:4].float()).shape == (4, data.classes)


def test_metrics_of_own_data():
    from examples.own_data.my_data import recalls

    logits, labels = torch.eye(2)[[0, 1, 1, 1]].numpy(), torch.tensor([0, 0, 1, 1]).numpy()
    assert recalls(logits, labels) == {"recall_malignant": 0.5, "recall_benign": 1.0}


def test_every_example_is_explained_in_a_short_page():
    assert len(SPACES) == 3
    for file in SPACES:
        text = file.with_name("README.md").read_text()
        assert f"harness search examples/{file.parent.name}/space.yaml" in text
        assert len(text.splitlines()) == 5
