"""`task.normalize`: what the network sees, in training and in the exported file; parts of the user's own."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from harness.errors import SpaceError
from harness.export.export import export
from harness.export.template import Templates
from harness.recipe import Task, parse_recipe
from harness.registries import REGISTRIES
from harness.tasks.data import load_data
from harness.tasks.digits import digits
from harness.train.fit import Trained
from harness.train.predict import normalized


def task(**options) -> Task:
    return parse_recipe({"task": {"name": "digits", **options}, "student": {"model": "mlp"}}, REGISTRIES).task


def mistake(**options) -> str:
    with pytest.raises(SpaceError) as caught:
        load_data(task(**options))
    return str(caught.value)


def test_by_default_the_training_part_has_mean_0_and_deviation_1():
    data = load_data(task())
    seen = normalized(data.train[0], data).double()
    assert abs(seen.mean().item()) < 1e-5 and abs(seen.std(correction=0).item() - 1) < 1e-5
    assert "normalize" not in task().to_tree()


def test_none_leaves_raw_samples_and_numbers_are_used_as_given():
    raw = load_data(task(normalize="none"))
    assert torch.equal(normalized(raw.train[0], raw), raw.train[0].float())
    data = load_data(task(normalize={"mean": 8, "std": [4.0]}))
    assert torch.equal(normalized(data.train[0], data), (data.train[0].float() - 8) / 4)
    for given in ({"normalize": "none"}, {"normalize": {"mean": [8.0], "std": [4.0]}}):
        assert parse_recipe({"task": task(**given).to_tree(), "student": {"model": "mlp"}}, REGISTRIES).task == task(
            **given
        )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("nine", "must be auto, none or {mean: ..., std: ...}, but got 'nine'. In the data's raw units"),
        ({"mean": 0}, "must be auto, none or {mean: ..., std: ...}"),
        ({"mean": 0, "std": 0}, "task.normalize.std: must be above 0, but got 0.0"),
        ({"mean": "x", "std": 1}, "task.normalize.mean: must be a finite number or a list of them, but got 'x'"),
        ({"mean": [1, 2], "std": [1, 2, 3]}, "must have as many deviations as means"),
        ({"mean": [1, 2], "std": 1}, "must have one number, or one for each of the 1 channels of a sample (1, 8, 8)"),
    ],
)
def test_mistakes(given, expected):
    assert expected in mistake(normalize=given)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["none", {"mean": 0, "std": 16}], ids=str)
def test_the_exported_file_computes_the_users_network_on_raw_samples(given, tmp_path):
    """The oracle is the user's own pipeline: torch on raw samples, or on samples divided by 16."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()
    data = load_data(task(normalize=given))
    path = tmp_path / "m.onnx"
    made = Trained(net, None, False, [], {})
    export(made, Templates(tmp_path / "graphs"), path, data.input_shape, data.mean, data.std)
    x = data.test[0][:50].float()
    with torch.no_grad():
        want = net(x if given == "none" else x / 16).numpy()
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    [got] = session.run(None, {"input": x.numpy()})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert ("Div" in operators) == (given != "none")


OWN = """
import numpy as np
def mine(how):
    x, y = np.arange(120, dtype="float32").reshape(30, 4), np.arange(30) % 3
    return {"x_train": x, "y_train": y, "x_test": x + 1, "y_test": y, "normalize": how}
"""


def test_the_users_function_says_how_and_the_yaml_goes_before_it(own_module):
    name = f"{own_module(OWN)}:mine"
    data = load_data(Task(name=name, options={"how": {"mean": [1, 2, 3, 4], "std": 2}}))
    assert (data.mean, data.std) == ((1, 2, 3, 4), (2, 2, 2, 2))
    assert load_data(Task(name=name, options={"how": "none"})).std == (1,)
    assert load_data(Task(name=name, options={"how": {"mean": 1, "std": 2}}, normalize="none")).mean == (0,)
    with pytest.raises(SpaceError, match=r"task.name: normalize of .*mine': must be auto, none or"):
        load_data(Task(name=name, options={"how": "some"}))


def rows(path: Path, **parts) -> str:
    np.savez(path, **{name: np.asarray(values) for name, values in parts.items()})
    return str(path)


def test_rows_of_the_users_own_split_are_respected(tmp_path):
    from sklearn.datasets import load_digits

    images = load_digits().images.astype(np.uint8)
    order = np.random.default_rng(5).permutation(1797)
    file = rows(tmp_path / "s.npz", train=order[:900], validation=order[900:1300], test=order[1300:])
    data = digits(split=file)
    for part, found in (("train", order[:900]), ("validation", order[900:1300]), ("test", order[1300:])):
        assert np.array_equal(getattr(data, part)[0][:, 0].numpy(), images[found])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"train": [0, 1], "validation": [1], "test": [2]}, "must name a row once, in one part, but got 1"),
        ({"train": [0, 1], "validation": [1797], "test": [2]}, "must hold rows 0..1796, but got 1797"),
        ({"train": [0, 1], "validation": [3]}, "cannot read row numbers from the .npz"),
        ({"train": [0.5], "validation": [3], "test": [4]}, "train in "),
        ({"train": [0], "validation": [3], "test": [4]}, "at least two classes in y of train"),
    ],
)
def test_mistakes_in_a_split(parts, expected, tmp_path):
    assert expected in mistake(split=rows(tmp_path / "s.npz", **parts))


def test_arrays_bring_their_own_validation(tmp_path):
    x, y = np.arange(120, dtype=np.float32).reshape(30, 4), np.arange(30) % 3
    files = {}
    for i, name in enumerate(("train", "test", "validation_samples")):
        files[name] = str(tmp_path / f"{name}.npz")
        np.savez(files[name], x=x + i, y=y)
    data = load_data(Task(name="arrays", options=files))
    assert np.array_equal(data.train[0], x) and np.array_equal(data.validation[0], x + 2)
    with pytest.raises(SpaceError, match="a file must not be both train and validation_samples"):
        load_data(Task(name="arrays", options={**files, "validation_samples": files["train"]}))
    split = rows(tmp_path / "rows.npz", train=range(20), validation=range(20, 30))
    data = load_data(Task(name="arrays", options={"train": files["train"], "test": files["test"], "split": split}))
    assert np.array_equal(data.validation[0], x[20:])
