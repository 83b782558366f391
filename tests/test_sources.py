"""The spaces of the sources run: each article's recipe and others of its space, on digits in place of MNIST."""

from __future__ import annotations

import html
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from harness.records import TrialRecord
from harness.report import load_study, write_report
from harness.search.preflight import teacher_trees
from harness.space.space import load_space
from harness.tasks.digits import digits
from harness.techniques import quantize
from harness.trial import run as trial
from harness.trial.job import TrialJob
from tests.searching import search_here
from tests.spaces import chooser

SOURCES = sorted((Path(__file__).resolve().parent.parent / "search_spaces" / "sources").glob("*.yaml"))
BRIEF = ["task={name: digits}", "train.epochs=2"]
TAUGHT = [*BRIEF, "teacher.epochs=2"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_the_articles_recipes_and_others_of_the_space_become_files(path: Path, tmp_path: Path) -> None:
    space = load_space(path, overrides=TAUGHT if "teacher:" in path.read_text() else BRIEF)
    ready = trial.prepare(teacher_trees(space), str(tmp_path))
    rng, accuracies = Random(0), []
    known = [
        space.sample(lambda hole, known=entry.params: known.get(hole.internal, hole.default)) for entry in space.first
    ]
    others = [space.sample(chooser(rng)) for _ in range(3)]
    for number, params in enumerate([*known, *others]):
        folder = tmp_path / "trials" / str(number)
        record = TrialRecord.model_validate(
            trial.run(TrialJob(space.fill(params, number), number, folder), ready.logits)
        )
        assert record.status == "ok", record.reason
        assert record.value("size_bytes") == (folder / "model.onnx").stat().st_size
        accuracies.append(record.value("accuracy"))
    assert max(accuracies) > 0.5 > ready.chance


PLAIN = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.0, "schedule": "constant", "weight_decay": 0.0}
FACTS: dict[tuple[str, str], dict[str, Any]] = {  # each article's numbers; every entry trains as PLAIN says
    ("clip_distill", "the article's recipe"): {
        "train": {"epochs": 200},  # labels for 100, then the teacher for 100
        "teacher": {**PLAIN, "epochs": 100, "clip": {"kind": "value", "threshold": 0.01}},
        "clip": {"kind": "none"},
        "distill": {"start": 0.5},
        "quant": {"bits": 32},
    },
    ("clip_mnist", "the article's recipe"): {
        "task": {"name": "mnist"},
        "student": {"model": "mlp", "hidden": [128]},
        "train": {"epochs": 10, "batch_size": 100},
        "clip": {"kind": "norm", "threshold": 1.0},
        "prune": {"ratio": 0.0},
        "quant": {"bits": 32},
    },
    ("clip_mnist", "the article's weight range (0.1 here), with 4 bits added"): {
        "student": {"model": "mlp", "hidden": [128]},
        "train": {"epochs": 10, "batch_size": 100},
        "clip": {"kind": "weight_range"},
    },
    ("clip_standardized", "the article's recipe"): {
        "clip": {"kind": "value"},
        "quant": {"kind": "standardized", "bits": 3, "range": 3.0},
    },
    ("teacher_gradients", "the article's recipe"): {
        "student": {"model": "mlp", "hidden": [100]},
        "teacher": {**PLAIN, "model": "mlp", "hidden": [100], "epochs": 10, "clip": {"kind": "none"}},
        "train": {"epochs": 10},
        "clip": {"kind": "none"},
        "distill": {"kind": "gradient", "weight": 1.0, "threshold": 5.0, "added": True},
        "quant": {"bits": 32},
    },
    ("prune_distill", "the article's hard pruning"): {
        "prune": {"kind": "rollback", "of": "both", "score": "random", "tolerance": 0.0, "regularize": "l1"},
        "distill": {"kind": "none"},
    },
    ("prune_distill", "the article's soft pruning"): {
        "prune": {"kind": "rollback", "of": "weights", "score": "random", "tolerance": 0.0, "regularize": "l2"},
        "distill": {"kind": "none"},
    },
    ("prune_distill", "the article's distillation"): {
        "prune": {"kind": "none", "regularize": "none"},
        "distill": {"kind": "copy", "weight": 1.0, "strength": 0.01},
    },
}


def entries(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> recipe of the space's named entries."""
    space = load_space(path)
    return {
        entry.name: space.fill(
            space.sample(lambda hole, known=entry.params: known.get(hole.internal, hole.default)), 0
        ).to_tree()
        for entry in space.first
    }


def test_every_named_entry_has_the_facts_of_its_article() -> None:
    named = {(path.stem, name): tree for path in SOURCES for name, tree in entries(path).items()}
    assert set(named) == set(FACTS)
    for key, facts in FACTS.items():
        for section, given in {**facts, "train": PLAIN | facts.get("train", {})}.items():
            found = {name: named[key][section][name] for name in given}
            assert found == given, (key, section)


@pytest.mark.parametrize(
    "name", ["the article's hard pruning", "the article's soft pruning", "the article's distillation"]
)
def test_prune_distill_trains_784_128_10_in_batches_of_64_with_strength_001(name: str) -> None:
    path = next(p for p in SOURCES if p.stem == "prune_distill")
    tree = entries(path)[name]
    assert (tree["task"]["name"], tree["student"]["hidden"], tree["quant"]["bits"]) == ("mnist", [128], 32)
    assert (tree["train"]["epochs"], tree["train"]["batch_size"]) == (10, 64)
    assert tree["teacher"]["hidden"] == [128]
    assert {k: tree["teacher"][k] for k in PLAIN} == PLAIN
    if tree["prune"]["kind"] == "rollback":
        assert tree["prune"]["strength"] == 0.01


def test_the_entry_of_clip_standardized_rounds_to_whole_deviations() -> None:
    """The article: subtract the mean, divide by the deviation, round, undo. Read from the quantizer, in numpy."""
    tree = entries(next(p for p in SOURCES if p.stem == "clip_standardized"))["the article's recipe"]["quant"]
    g = torch.Generator().manual_seed(0)
    w = torch.randn(40, 60, generator=g, dtype=torch.float64) + 0.3
    given = {"bits": torch.tensor(float(tree["bits"])), "range": torch.tensor(tree["range"])}
    found = quantize.standardized(w, torch.ones_like(w), {}, **given).weight.numpy()
    z = (w.numpy() - w.numpy().mean()) / w.numpy().std()
    whole = np.clip(np.rint(z), -3, 3) * w.numpy().std() + w.numpy().mean()
    assert np.abs(found - whole).max() <= w.numpy().std() / 20  # the mean is off by half a stored unit


def test_ten_features_are_the_principal_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-learn's PCA as oracle, on digits in place of MNIST."""
    from sklearn.decomposition import PCA

    from search_spaces.sources import ten_features

    data = digits()
    monkeypatch.setattr(ten_features, "pictures", lambda train_limit: data)
    found = ten_features.mnist()
    pca = PCA(10).fit(data.train[0].flatten(1).numpy() / 255)
    for name in ("train", "validation", "test"):
        expected = pca.transform(getattr(data, name)[0].flatten(1).numpy() / 255)
        assert found[f"x_{name}"].shape == expected.shape
        np.testing.assert_allclose(np.abs(found[f"x_{name}"]), np.abs(expected), atol=1e-5)
        assert np.array_equal(found[f"y_{name}"], getattr(data, name)[1].numpy())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_the_report_of_a_search_marks_the_articles_recipes(path: Path, box: Path) -> None:
    space = load_space(path, overrides=["search.trials=8"])
    search_here(space, box / path.stem)
    page = write_report(load_study(box / path.stem)).read_text()
    assert space.first
    for first in space.first:
        assert first.name in html.unescape(page)
