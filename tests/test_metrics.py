"""A task's own metrics: refused by name before anything trains, and objectives like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.errors import SpaceError, TrialError
from harness.space.space import load_space
from harness.tasks.data import metric_names, own_metrics
from harness.trial import run as trial
from harness.trial import score as scoring
from tests.tasks import load, message

OWN = """
import numpy as np
from sklearn.metrics import f1_score

def of(metrics):
    def data():
        x, y = np.arange(120.0).reshape(30, 4), np.arange(30) % 3
        return {"x_train": x, "y_train": y, "x_test": x + 1, "y_test": y, "metrics": metrics}
    return data

good = of(lambda logits, labels: {"f1": f1_score(labels, logits.argmax(1), average="macro")})
nan = of(lambda logits, labels: {"fine": 0.5, "f1": float("nan")})
infinite = of(lambda logits, labels: {"f1": np.float32("inf")})
only_test = of(lambda logits, labels: {"f1": float("nan") if len(labels) == 30 else 1.0})
reserved = of(lambda logits, labels: {"latency_ms": 1.0})
accuracy = of(lambda logits, labels: {"accuracy": 1.0})
tested = of(lambda logits, labels: {"test_f1": 1.0})
spaced = of(lambda logits, labels: {"f1 max": 1.0})
array = of(lambda logits, labels: {"f1": logits})
bare = of(lambda logits, labels: 0.5)
raises = of(lambda logits, labels: {"f1": 1 / 0})
"""


@pytest.fixture
def own(own_module):
    return own_module(OWN)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("nan", "metric 'f1' must be finite, but got nan"),
        ("infinite", "metric 'f1' must be finite, but got inf"),
        ("only_test", "tried on random predictions for test: metric 'f1' must be finite, but got nan"),
        ("reserved", "metric 'latency_ms' is a reserved name; give it another name"),
        ("accuracy", "metric 'accuracy' is a reserved name"),
        ("tested", "metric 'test_f1' is a reserved name"),
        ("spaced", "metric 'f1 max' must be a word of letters, digits"),
        ("array", "metric 'f1' must be a number, but got array"),
        ("bare", "metrics must return a mapping name -> number, but got 'float'"),
        ("raises", "metrics raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_metric_that_is_no_finite_number_is_refused_by_name_with_the_task(own, function, expected):
    text = message(f"{own}:{function}")
    assert text.startswith(f"task.name: '{own}:{function}', tried on random predictions for ")
    assert expected in text


def test_a_good_metric_is_found_and_is_scikit_learns(own):
    from sklearn.metrics import f1_score

    data = load(f"{own}:good")
    assert metric_names(data, "own") == ["f1"]
    logits, labels = np.random.default_rng(1).normal(size=(30, 3)), np.arange(30) % 3
    assert own_metrics(data, logits, labels) == {"f1": f1_score(labels, logits.argmax(1), average="macro")}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (
            {"objectives.0": "f2"},
            "objectives.0: must be a metric that task 'OWN:good' returns, but got 'f2'. Known: accuracy, f1.",
        ),
        ({"constraints.f2": "f2"}, "constraints.f2: must be a metric that task 'OWN:good' returns, but got 'f2'"),
    ],
)
def test_a_metric_that_is_not_returned_is_refused_before_the_teacher_trains(own, wanted, expected):
    tree = {
        "task": {"name": f"{own}:good"},
        "student": {"model": "mlp", "hidden": [4]},
        "teacher": {"model": "mlp", "hidden": [8], "epochs": 1},
    }
    with pytest.raises(SpaceError) as caught:
        trial.examine([tree], wanted, False)
    assert expected.replace("OWN", own) in str(caught.value)
    assert trial.examine([tree], {"objectives.0": "f1"}, False) == []


def test_a_metric_that_is_nan_for_one_student_fails_that_trial_by_name(own, monkeypatch, tmp_path):
    monkeypatch.setattr(scoring.base, "load", lambda runtime, path: Constant())
    data = load(f"{own}:good")
    object.__setattr__(data, "metrics", lambda logits, labels: {"f1": np.float64("nan")})
    with pytest.raises(TrialError, match="metric 'f1' must be finite, but got nan"):
        scoring.file_metrics(tmp_path / "model.onnx", data, "validation")


class Constant:
    """A file that gives every sample the same logits."""

    def logits(self, x: np.ndarray) -> np.ndarray:
        return np.tile(np.float32([1, 0, 0]), (len(x), 1))


@pytest.mark.parametrize("name", ["test_f1", "n", "device_latency_ms", "f1 max"])
def test_an_objective_of_a_reserved_name_is_a_mistake_in_the_space(tmp_path: Path, name: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "task: {name: 'own:data'}\nstudent: {model: mlp, hidden: {choice: [[4], [8]]}}\n"
        f"objectives: [{{name: {name}, direction: maximize}}, size_bytes]\n"
    )
    with pytest.raises(
        SpaceError, match=r"space.yaml:3: objectives.0.name: a metric of the task: (is a reserved name|must be a word)"
    ):
        load_space(path)
