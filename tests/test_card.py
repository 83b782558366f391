"""What a file and its model card say of their use is enough to use the file, and true."""

from __future__ import annotations

import importlib.util
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import harness
from harness.errors import SpaceError
from harness.export import facts
from harness.production import train
from harness.recipe import Selected, parse_recipe
from harness.records import read_record
from harness.registries import REGISTRIES
from harness.runtimes.base import load
from harness.tasks.data import load_data
from harness.tasks.digits import digits
from harness.trial import run as trial
from tests import exact
from tests.jobs import job

openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the extra openvino is not here")


def recipe(bits: int, prune: str = "none", **deploy: Any) -> dict[str, Any]:
    return {
        "task": {"name": "digits"},
        "student": {"model": "mlp", "hidden": [64, 32]},
        "train": {"epochs": 6, "lr": 0.05},
        "prune": {"kind": prune, **({} if prune == "none" else {"ratio": 0.9})},
        "quant": {"bits": bits},
        "deploy": deploy,
    }


def run_card(folder: Path, x: np.ndarray, alone: bool) -> np.ndarray:
    """Logits of the card's own lines, in a process of its own, in the card's folder."""
    [lines] = re.findall(r"```python\n(.*?)```", (folder / "model_card.md").read_text(), re.DOTALL)
    assert lines.count("\n") <= 7
    np.save(folder / "x.npy", x)
    blocked = "import sys; sys.modules.update(harness=None, torch=None, onnx=None)\n" if alone else ""
    code = f"{blocked}{lines}\nnp.save('logits.npy', logits)\n"
    code += "assert (classes == logits.argmax(1)).all()\n"
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return np.load(folder / "logits.npy")


def test_the_longest_entries_without_class_names_take_under_100_bytes() -> None:
    values = numpy_helper.from_array(np.full((2, 2), -127, np.int8), "w")
    shift = helper.make_node("BitShift", ["a", "b"], ["c"], direction="LEFT")
    model = helper.make_model(helper.make_graph([shift], "g", [], [], [values]))
    before = model.ByteSize()
    data = SimpleNamespace(train=(torch.tensor([-1.2345e-30, 0, 1.2345e-30]),), classes=2, class_names=())
    facts.describe(model, facts.of_task(data))  # type: ignore[arg-type]
    assert set(facts.read(model)) == {"range", "wrong", "x86"}
    assert facts.read(model)["range"] == "-1.235e-30..1.235e-30"
    assert model.ByteSize() - before < 100


@pytest.mark.parametrize(
    ("bits", "deploy"),
    [
        (8, {}),
        (3, {}),
        (32, {"metadata": "none"}),
        (8, {"format": "packed"}),
        (3, {"runtime": "torch"}),
        pytest.param(8, {"runtime": "openvino"}, marks=openvino),
    ],
)
def test_the_cards_own_lines_give_the_promised_accuracy(bits: int, deploy: dict[str, str], tmp_path: Path) -> None:
    made = train(parse_recipe(recipe(bits, **deploy), REGISTRIES), tmp_path)
    x, y = digits().test
    logits = run_card(tmp_path, x.numpy(), alone=deploy.get("format") != "packed" and "runtime" not in deploy)
    found = float((logits.argmax(1) == y.numpy()).mean())
    card = (tmp_path / "model_card.md").read_text()
    [latency] = [line for line in card.splitlines() if line.startswith("- latency: ")]
    assert "batch of 1, 1 thread" in latency and not set("{}[]'") & set(latency)
    assert socket.gethostname() not in card
    assert f"test accuracy: {found:.4f} (n = {len(y)})" in card
    assert found == made.test["accuracy"] > 0.8
    for said in (
        "float32, shape (batch, 1, 8, 8)",
        "0..16 in training",
        "Do not scale",
        "numbered 0 to 9",
        "(batch, 10)",
    ):
        assert said in card, said
    assert ("x86 without VNNI" in card) == (bits == 8) and ("do not use OpenVINO" in card) == (bits == 3)
    if not deploy:  # what the card warns of: nothing else would tell
        scaled = run_card(tmp_path, x.numpy() / 16, alone=True)
        assert (scaled.argmax(1) == y.numpy()).mean() < 0.5
        assert np.array_equal(run_card(tmp_path, x.numpy()[:, 0], alone=True), logits), "images without channels"


def test_the_file_carries_the_cards_facts_and_its_size_counts_them(tmp_path: Path) -> None:
    sizes = {}
    for metadata in ("short", "none"):
        folder = tmp_path / metadata
        record = trial.run(job(recipe(3, metadata=metadata), folder))
        model = harness.load(folder / "model.onnx")
        said = {"range": "0..16", "wrong": "openvino"}
        assert facts.read(model) == (said if metadata == "short" else {})
        assert record.diagnostics["facts"] == said, "the card has them in any case"
        sizes[metadata] = (folder / "model.onnx").stat().st_size
        assert record.value("size_bytes") == sizes[metadata] == record.waterfall["file"]
    assert 0 < sizes["short"] - sizes["none"] <= 36


def test_what_is_priced_before_training_is_what_is_shipped(tmp_path: Path) -> None:
    for bits in (3, 8):
        priced = trial.untrained(parse_recipe(recipe(bits), REGISTRIES), tmp_path / str(bits))
        shipped = trial.run(job(recipe(bits), tmp_path / str(bits)))
        assert priced.structure == shipped.structure
        assert priced.size_bytes == shipped.artifact.size_bytes


@openvino
@pytest.mark.parametrize("prune", ["none", "weight"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8, 32])
def test_a_file_is_marked_where_openvino_computes_it_wrongly(bits: int, prune: str, tmp_path: Path) -> None:
    """OpenVINO itself is asked, without the loader that refuses; integers in float32, so that none saturate."""
    import openvino as ov

    assert trial.run(job(recipe(bits, prune), tmp_path)).status == "ok"
    path, (x, _) = tmp_path / "model.onnx", digits().test
    x = x.float().numpy()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    got = ov.Core().compile_model(str(path), "CPU", settings)(x)[0]
    want = exact.logits(path.read_bytes(), x)
    wrong = bool((got.argmax(1) != want.argmax(1)).mean() > 0.1)
    assert (facts.read(harness.load(path)).get("wrong") == "openvino") == wrong
    if not wrong:
        assert (load("openvino", path).logits(x).argmax(1) != want.argmax(1)).sum() <= 2


def test_classes_with_names_are_in_the_file_and_in_the_card(own_module, tmp_path: Path) -> None:
    text = (
        "import numpy as np\n"
        "def own(names=()):\n"
        "    rng = np.random.default_rng(0)\n"
        "    y = np.arange(90) % 3\n"
        "    x = (rng.normal(size=(90, 4)) + y[:, None]).astype(np.float32)\n"
        "    found = {'x_train': x, 'y_train': y, 'x_test': x, 'y_test': y}\n"
        "    return {**found, 'class_names': names} if names else found\n"
    )
    name = own_module(text)
    task = {"name": f"{name}:own", "names": ["cat", "dog", "eel"]}
    student = {"model": "mlp", "hidden": [8]}
    made = train(parse_recipe({"task": task, "student": student, "train": {"epochs": 1}}, REGISTRIES), tmp_path / "m")
    low, high = (f"{v:.4g}" for v in torch.stack(load_data(Selected(name=task["name"], options={})).train[0].aminmax()))
    assert facts.read(onnx.load(made.folder / "model.onnx")) == {"range": f"{low}..{high}", "classes": "cat,dog,eel"}
    card = (made.folder / "model_card.md").read_text()
    assert "classes: cat,dog,eel" in card and "shape (batch, 4), that is batch, features" in card
    assert read_record(made.folder).diagnostics["facts"]["classes"] == "cat,dog,eel"  # type: ignore[union-attr]
    with pytest.raises(SpaceError, match="class_names must be 3, one a class"):
        load_data(Selected(name=task["name"], options={"names": ["cat", "dog"]}))
