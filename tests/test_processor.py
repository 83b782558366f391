"""A file's accuracy is that of exact integer arithmetic, whatever the processor sums them with."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.export.facts import may_saturate
from harness.machine.host import environment, saturates, session_options
from harness.measure.bundle import read_results
from harness.measure.lab import Lab
from harness.runtimes.base import load
from harness.tasks.digits import digits
from harness.trial import run as trial
from harness.verify.check import _allowed
from tests import exact
from tests.bundles import bundled
from tests.jobs import job
from tests.runtimes import ROUNDS, case, skip_unless_installed

OPTION = {"session.x64quantprecision": "1"}
STUDENTS: dict[str, dict[str, Any]] = {
    "mlp": {"model": "mlp", "hidden": [64, 32]},
    "convnet": {"model": "convnet", "width": 16},
    "resnet": {"model": "resnet", "depth": 8, "width": 8},  # layers of one width: two read one tensor of zero points
}
LARGE = {"8 bits": {"bits": 8}, "table": {"kind": "standardized", "bits": 3}}  # integers up to 127


def trained(folder: Path, student: str, quant: dict[str, Any], runtime: str = "onnxruntime") -> tuple[Path, dict]:
    """The file of a short training on digits, and its record."""
    recipe = {
        "task": {"name": "digits"},
        "student": STUDENTS[student],
        "train": {"epochs": 3, "lr": 0.05},
        "quant": quant,
        "deploy": {"runtime": runtime},
    }
    record = trial.run(job(recipe, folder))
    assert record.status == "ok", record.reason
    return folder / "model.onnx", record


def plain(model: bytes, x: np.ndarray) -> np.ndarray:
    """Logits of a session that is told nothing."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": x})[0])


@pytest.mark.parametrize("runtime", [case(name) for name, rounds in ROUNDS.items() if rounds])
@pytest.mark.parametrize("quant", list(LARGE))
@pytest.mark.parametrize("student", list(STUDENTS))
def test_the_file_computes_exact_integers(student: str, quant: str, runtime: str, tmp_path: Path) -> None:
    skip_unless_installed(runtime, tmp_path)
    path, record = trained(tmp_path / "trial", student, LARGE[quant], runtime)
    x, y = digits().validation
    want, got = exact.logits(path.read_bytes(), x.float().numpy()), load(runtime, path).logits(x.float().numpy())
    hits = [int((values.argmax(1) == y.numpy()).sum()) for values in (want, got)]
    assert abs(hits[0] - hits[1]) <= 2
    layers = len(record.diagnostics["audit"]["layers"])
    assert np.abs(want - got).max() <= layers * np.abs(want).max() / 127  # a half rounded the other way, a layer
    recorded = record.value("accuracy")
    assert abs(round(recorded * len(y)) - hits[0]) <= 2
    assert record.environment["session_options"] == session_options()


def test_the_option_is_set_where_a_file_saturates_and_nowhere_else(tmp_path: Path) -> None:
    """With VNNI the option only costs time."""
    path, _ = trained(tmp_path, "mlp", {"bits": 8})
    x = digits().test[0].float().numpy()
    want = exact.logits(path.read_bytes(), x)
    wrong = np.abs(plain(path.read_bytes(), x) - want).max() > 3 * np.abs(want).max() / 127
    assert session_options() == environment()["session_options"] == (OPTION if wrong else {})
    assert load("onnxruntime", path).options == session_options() and saturates() == wrong


def test_small_integers_cannot_saturate_on_any_processor(tmp_path: Path) -> None:
    path, _ = trained(tmp_path, "mlp", {"bits": 7})
    x = digits().test[0].float().numpy()
    want = exact.logits(path.read_bytes(), x)
    assert np.abs(plain(path.read_bytes(), x) - want).max() <= 3 * np.abs(want).max() / 127
    assert not may_saturate(onnx.load(path))


TWICE = """
from torch import nn
class Twice(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.again = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(512, classes)
    def forward(self, x):
        x = self.again(self.first(x).relu()).relu()
        return self.last(self.again(x).relu().flatten(1))
def twice(input_shape, classes):
    return Twice(classes)
"""


def test_a_layer_that_is_called_twice_is_exact_too(own_module, tmp_path: Path) -> None:
    """onnxruntime's option renames a weight and fails where two operators read it."""
    STUDENTS["twice"] = {"model": f"{own_module(TWICE)}:twice"}
    path, _ = trained(tmp_path / "trial", "twice", {"bits": 8})
    x = digits().validation[0].float().numpy()
    want, got = exact.logits(path.read_bytes(), x), load("onnxruntime", path).logits(x)
    assert np.abs(want - got).max() <= 4 * np.abs(want).max() / 127


def test_sessions_are_opened_in_one_place() -> None:
    """So that what is scored, audited, timed and bundled is told the same."""
    package = Path(__file__).resolve().parent.parent / "harness"
    names = {"InferenceSession", "SessionOptions"}
    opening = {
        path.name
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names
    }
    assert opening == {"onnx_session.py"}


def test_a_latency_says_what_the_runtime_was_told(tmp_path: Path) -> None:
    path, _ = trained(tmp_path, "mlp", {"bits": 8})
    with Lab() as lab:
        [found] = lab.measure([path], None, budget_s=0.02)
    assert found.conditions["options"] == session_options()
    bundle = bundled([path], tmp_path / "bundle")
    made, _ = read_results(bundle / "results.json")
    assert [s.options for s in made.sessions] == [[session_options()]] * 2
    assert made.measurements()[0].conditions["options"] == session_options()
    shown = CliRunner().invoke(app, ["bench", "--import", str(bundle / "results.json")]).output
    assert ("session.x64quantprecision=1" in shown) == saturates()
    out = tmp_path / "bench.json"
    command = ["bench", str(path), "--seconds", "0.02", "--processes", "2", "--json", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    written = json.loads(out.read_text())
    assert written["environment"]["session_options"] == session_options()
    assert [s["options"] for s in written["sessions"]] == [[session_options()]] * 2


def test_check_allows_two_samples_between_processors_and_none_on_the_same() -> None:
    here = environment()
    assert _allowed(here, 1000)[0] == 0
    other = {**here, "isa": [*here["isa"], "another"]}
    allowed, rule = _allowed(other, 1000)
    assert 2 / 1000 <= allowed < 3 / 1000 and "within 2 samples" in rule
    old = {k: v for k, v in here.items() if k != "session_options"}
    assert _allowed(old, 1000)[0] == pytest.approx(0.01)


def test_doctor_says_what_the_instructions_mean() -> None:
    shown = CliRunner().invoke(app, ["doctor"]).output
    [line] = [line for line in shown.splitlines() if line.startswith("instructions")]
    assert all(flag in line for flag in environment()["isa"])
    assert ("saturate here" in line) == saturates() and ("exact" in line) != saturates()
    assert ("Production on such a processor must set the same" in shown) == saturates()
