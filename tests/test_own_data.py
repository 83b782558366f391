"""The user's own function as a task."""

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.datasets import load_wine

from harness.tasks.digits import digits
from harness.trial import run as trial
from tests.jobs import job
from tests.tasks import PARTS, load, message

OWN = """
import numpy as np
def metrics(logits, labels): return {"one": 1.0}
def parts(n=30):
    x, y = np.arange(n * 4, dtype=float).reshape(n, 4), np.arange(n) % 3
    return {"x_train": x, "y_train": y, "x_test": x + 1, "y_test": y}
def good(n=30): return {**parts(n), "metrics": metrics}
def held(): return {**parts(), "x_validation": parts()["x_test"], "y_validation": parts()["y_test"]}
def data():
    from harness.tasks.digits import digits
    return digits()
def half(): return {**parts(), "x_validation": parts()["x_test"]}
def lacks(): return {"x_train": parts()["x_train"]}
def unknown(): return {**parts(), "metric": metrics}
def not_callable(): return {**parts(), "metrics": 3}
def array(): return parts()["x_train"]
def bad_labels(): return {**parts(), "y_train": parts()["y_train"] * 2}
def raises(): raise OSError("no disk")
"""


@pytest.fixture
def own(own_module):
    return own_module(OWN)


def test_own_data_from_the_current_folder(own):
    data = load(f"{own}:good", n=60)
    assert [len(getattr(data, part)[1]) for part in PARTS] == [51, 9, 60]
    assert data.metrics is not None
    assert data.metrics(np.zeros((1, 3)), np.zeros(1)) == {"one": 1.0}
    assert load(f"{own}:data").fingerprint() == digits().fingerprint()


def test_own_validation_part(own):
    data = load(f"{own}:held")
    assert [len(getattr(data, part)[1]) for part in PARTS] == [30, 30, 30]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("half", "x_validation and y_validation together"),
        ("lacks", "lacks y_train, x_test, y_test. It has: x_train"),
        ("unknown", "unknown key 'metric'. Known: x_train"),
        ("not_callable", "must be a function (logits, labels)"),
        ("array", "or a mapping with x_train, y_train, x_test, y_test, but got 'ndarray'"),
        ("bad_labels", "y of test must hold only classes that train has (0, 2, 4), but got [1]"),
        ("raises", "raised OSError: no disk"),
        ("absent", "cannot import"),
    ],
)
def test_mistakes_in_own_data_name_the_task(own, function, expected):
    text = message(f"{own}:{function}")
    assert text.startswith("task.name: ")
    assert expected in text


def test_a_module_that_is_not_there(own):
    assert message("no_such_package.module:function").startswith("task.name: cannot import 'no_such_package")


LAYER = """
import numpy as np
from sklearn.datasets import load_wine
from torch import nn
def wine():
    x, y = load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order].astype(np.float32), y[order]
    return {"x_train": x[:130], "y_train": y[:130], "x_test": x[130:], "y_test": y[130:]}
def net(input_shape, classes): return nn.Linear(*input_shape, classes)
"""


@pytest.mark.parametrize("bits", [32, 8, 2])
def test_a_network_that_is_one_layer(own_module, tmp_path, bits):
    """A table of floats and a student without any module around its layer, from its checkpoint to its file."""
    name = own_module(LAYER)
    torch.manual_seed(0)
    layer = torch.nn.Linear(13, 3)
    torch.save(layer.state_dict(), tmp_path / "w.pt")
    student = {"model": f"{name}:net", "checkpoint": "w.pt"}
    pruned = {"kind": "weight", "ratio": 0.5}
    tree = {"task": {"name": f"{name}:wine"}, "student": student, "quant": {"bits": bits}, "prune": pruned}
    tree |= {"train": {"epochs": 20, "lr": 0.1}}
    record = trial.run(job(tree, tmp_path / "t"))
    assert record.status == "ok", record.reason
    session = onnxruntime.InferenceSession(tmp_path / "t" / "model.onnx")
    x, y = load_wine(return_X_y=True)
    test = np.random.default_rng(0).permutation(len(y))[130:]
    [logits] = session.run(None, {session.get_inputs()[0].name: x[test].astype(np.float32)})
    assert (logits.argmax(1) == y[test]).mean() > 0.8
    assert record.diagnostics["sparsity"] >= 20 / 39  # rounding makes more zeros
