"""The user's arrays: shapes, parts, mistakes named."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tasks import PARTS, load, message, samples


def save(tmp_path, name="train.npz", **given) -> str:
    x, y = samples()
    np.savez(tmp_path / name, **{"x": x, "y": y, **given})
    return str(tmp_path / name)


def files(tmp_path, **given) -> dict[str, str]:
    return {"train": save(tmp_path, **given), "test": save(tmp_path, "test.npz")}


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [((4, 5), np.uint8, (1, 4, 5)), ((3, 4, 5), np.float64, (3, 4, 5)), ((7,), np.float32, (7,))],
)
def test_arrays_of_each_shape(tmp_path, shape, dtype, expected):
    x, y = samples(shape=shape, dtype=dtype)
    data = load("arrays", train=save(tmp_path, x=x, y=y), test=save(tmp_path, "test.npz", x=x, y=y))
    assert data.input_shape == expected
    assert data.train[0].dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    assert [len(getattr(data, part)[1]) for part in PARTS] == [51, 9, 60]


def test_parts_are_joined_in_the_order_of_their_names(tmp_path):
    x, y = samples(90)
    whole = load("arrays", train=save(tmp_path, "whole.npz", x=x, y=y), test=save(tmp_path, "test.npz"))
    for i, part in enumerate("abc"):
        save(tmp_path, f"part_{part}.npz", x=x[30 * i : 30 * i + 30], y=y[30 * i : 30 * i + 30])
    joined = load("arrays", train=str(tmp_path / "part_*.npz"), test=str(tmp_path / "test.npz"))
    assert joined.fingerprint() == whole.fingerprint()


def test_train_limit_takes_a_stratified_subset_of_train_only(tmp_path):
    given = files(tmp_path)
    data, whole = load("arrays", **given, train_limit=12), load("arrays", **given)
    assert data.train[1].bincount().tolist() == [4, 4, 4]
    assert torch.equal(data.validation[0], whole.validation[0])
    assert torch.equal(data.test[0], whole.test[0])
    held = {x.numpy().tobytes() for x in data.validation[0]}
    assert not held & {x.numpy().tobytes() for x in data.train[0]}
    assert data.mean != whole.mean
    assert "task.train_limit: must be 0 (all) or at least 3" in message("arrays", **given, train_limit=2)


X, Y = samples()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"y": Y[:10]}, "one label for each of the 60 samples"),
        ({"y": Y[:, None]}, "shape (60,), but got (60, 1)"),
        ({"y": Y + 1}, "each of the class numbers 0..2, but got [1, 2, 3]. Number the classes"),
        ({"y": Y.astype(float)}, "integer class numbers, but got 'float64'"),
        ({"y": np.array(list("abc") * 20)}, "integer class numbers"),
        ({"y": Y * 0}, "at least two classes"),
        ({"x": X[:0], "y": Y[:0]}, "at least one sample"),
        ({"x": X[:, 0, 0]}, "x must be (samples, features), (samples, height, width) or"),
        ({"x": X.astype(np.int64)}, "x must be uint8 or float, but got 'int64'"),
        ({"x": np.where(X > 250, np.nan, X)}, "x must be finite in float32"),
        ({"x": X * np.array(1e300)}, "x must be finite in float32"),
        ({"x": np.array([None] * 60), "y": Y}, "cannot be read as .npz without unpickling"),
        (
            {"x": X.astype(np.float32)},
            "a sample of test must be float32 (1, 4, 4) as in train, but got 'uint8 (1, 4, 4)'",
        ),
        ({"x": X[:, :3]}, "a sample of test must be uint8 (1, 3, 4) as in train"),
        ({"y": Y % 2}, "y of test must hold only classes that train has (0..1), but got [2]"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, given, expected):
    text = message("arrays", **files(tmp_path, **given))
    assert text.startswith("task.train: ")
    assert expected in text


def test_wrong_files_are_named(tmp_path):
    good = save(tmp_path)
    np.savez(tmp_path / "keys.npz", x=X, labels=Y)
    np.save(tmp_path / "single.npy", X)
    (tmp_path / "torn.npz").write_bytes(Path(good).read_bytes()[:200])
    (tmp_path / "text.npz").write_text("hello")
    for name, expected in [
        ("keys.npz", "y missing, it holds ['labels', 'x']"),
        ("single.npy", "not a single array"),
        ("torn.npz", "cannot be read"),
        ("text.npz", "cannot be read"),
        ("absent.npz", "no file is there"),
        ("no_*.npz", "no file is there"),
    ]:
        text = message("arrays", train=good, test=str(tmp_path / name))
        assert text.startswith("task.test: ")
        assert expected in text
    assert "must not be both train and test" in message("arrays", train=str(tmp_path / "*.npz"), test=good)


def test_parts_must_agree(tmp_path):
    save(tmp_path, "a.npz")
    save(tmp_path, "b.npz", x=X.astype(np.float32))
    text = message("arrays", train=str(tmp_path / "?.npz"), test=save(tmp_path, "test.npz"))
    assert "b.npz: a sample must be uint8 (1, 4, 4)" in text
