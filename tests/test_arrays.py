"""The user's arrays: shapes, parts, mistakes named."""

import zipfile
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
        ({"y": Y.astype(float)}, "y must hold integers or texts, but got 'float64'. Labels are classes"),
        ({"y": np.arange(60)}, "y of train has 60 different labels among 60 samples"),
        ({"y": np.array(list("abc") * 20)}, "y of test must hold only classes that train has (a, b, c), but got ["),
        ({"y": np.array([None, 1, 2] * 20)}, "holds objects). Texts are stored with y.astype(str)"),
        ({"class_names": np.array(["a", "b"])}, "class_names must be 3, one a class, but got ['a', 'b']"),
        ({"class_names": np.arange(3)}, "class_names must be texts, one a class, but got 'int64 (3,)'"),
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
        ({"y": Y % 2}, "y of test must hold only classes that train has (0, 1), but got [2]"),
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


LABELS = {
    "texts": (np.array(["cat", "ant", "bee"]), ("ant", "bee", "cat")),
    "from one": (np.array([3, 1, 2]), ("1", "2", "3")),
    "signs": (np.array([1, -1]), ("-1", "1")),
    "numbers": (np.array([2, 0, 1]), ()),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_values_are_numbered_in_their_order(tmp_path, kind):
    values, names = LABELS[kind]
    y = np.resize(values, 60)
    data = load("arrays", train=save(tmp_path, y=y), test=save(tmp_path, "test.npz", y=y[::-1]))
    assert data.class_names == names
    assert data.test[1].tolist() == np.unique(y, return_inverse=True)[1][::-1].tolist()


def test_truth_values_are_two_classes(tmp_path):
    y = np.arange(60) % 2 == 0
    data = load("arrays", train=save(tmp_path, y=y), test=save(tmp_path, "test.npz", y=y))
    assert data.classes == 2 and data.test[1].tolist() == y.astype(int).tolist()


def test_class_names_of_the_file_are_those_of_the_sorted_labels(tmp_path):
    x, y = samples()
    data = load("arrays", train=save(tmp_path, y=y + 7, class_names=["seven", "eight", "nine"]))
    assert data.class_names == ("seven", "eight", "nine")


def test_one_file_without_parts_gives_a_share_of_each_class_to_test(tmp_path):
    x, y = samples(90)
    data = load("arrays", train=save(tmp_path, x=x, y=y), test_share=0.3)
    assert data.test[1].bincount().tolist() == [9, 9, 9]
    rows = {sample.numpy().tobytes() for part in PARTS for sample in getattr(data, part)[0]}
    assert rows == {sample.tobytes() for sample in x}
    again = load("arrays", train=save(tmp_path, x=x, y=y), test_share=0.3, split_seed=1)
    assert torch.equal(again.test[0], data.test[0]) and not torch.equal(again.train[0], data.train[0])


def test_one_file_of_all_parts(tmp_path):
    given = {
        f"{name}_{part}": value for part in PARTS for name, value in zip("xy", samples(seed=len(part)), strict=True)
    }
    file = str(tmp_path / "all.npz")
    np.savez(file, **given)
    data = load("arrays", train=file)
    assert [len(getattr(data, part)[1]) for part in PARTS] == [60, 60, 60]
    assert np.array_equal(data.test[0].numpy()[:, 0], given["x_test"])
    assert "Put x_validation into the file" in message("arrays", train=file, validation_samples=save(tmp_path))
    del given["y_validation"]
    np.savez(file, **given)
    assert "must hold arrays named x_validation and y_validation; y_validation missing" in message("arrays", train=file)
    del given["x_validation"], given["y_test"]
    np.savez(file, **given)
    assert "must hold arrays named x_test and y_test; y_test missing" in message("arrays", train=file)


def forged(tmp_path: Path, name: str, descr: str, shape: tuple[int, ...], body: bytes, **good) -> str:
    """An archive with a member of this header and content, beside good arrays."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body
    np.savez(tmp_path / "forged.npz", **good)
    with zipfile.ZipFile(tmp_path / "forged.npz", "a") as archive:
        archive.writestr(f"{name}.npy", member)
    return str(tmp_path / "forged.npz")


@pytest.mark.parametrize(
    ("name", "descr", "shape", "body", "expected"),
    [
        ("class_names", "<U0", (10**15,), b"", "0 bytes, and holds 0"),
        ("y", "<U1", (2,), (0x110000).to_bytes(4, "little") * 2, "codes that are no characters"),
        ("y", "<U1", (2,), (0xD800).to_bytes(4, "little") * 2, "codes that are no characters"),
    ],
)
def test_forged_texts_are_refused(tmp_path, name, descr, shape, body, expected):
    good = {"x": X, **({} if name == "y" else {"y": Y})}
    text = message("arrays", train=forged(tmp_path, name, descr, shape, body, **good))
    assert text.startswith("task.train: ") and expected in text


def test_numbers_beyond_int64_are_refused_and_an_empty_name_is_named(tmp_path):
    y = np.where(Y == 0, np.uint64(2**64 - 1), np.uint64(1))
    assert "y must be below 2**63, but got 18446744073709551615" in message("arrays", train=save(tmp_path, y=y))
    assert "task.train: no file is there, but got ''" in message("arrays", train="")
    assert "task.train: no file is there" in message("arrays", train="x" * 5000)


def test_a_file_is_found_by_its_exact_name_and_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("[a].npz", "~nobody.npz", "a*.npz"):
        assert len(load("arrays", train=save(tmp_path, name)).test[1]) == 12
        assert len(load("arrays", train=name).test[1]) == 12
    (tmp_path / "parts").mkdir()
    save(tmp_path, "parts/one.npz")
    (tmp_path / "parts" / "two.npz").symlink_to(tmp_path / "parts" / "one.npz")
    data = load("arrays", train="parts/*.npz")
    assert sum(len(getattr(data, part)[1]) for part in PARTS) == 60


def test_class_names_of_several_files_agree(tmp_path):
    names = ["a", "b", "c"]
    save(tmp_path, "p1.npz")
    save(tmp_path, "p2.npz", class_names=names)
    assert load("arrays", train=str(tmp_path / "p?.npz")).class_names == tuple(names)
    save(tmp_path, "p1.npz", class_names=["c", "b", "a"])
    assert "class_names must be those of the other files" in message("arrays", train=str(tmp_path / "p?.npz"))
    assert "class_names must differ" in message("arrays", train=save(tmp_path, class_names=["a", "a", "b"]))


def test_too_few_samples_are_named(tmp_path):
    x, y = samples(4, classes=2)
    assert "task.name: validation would have no samples" in message("arrays", train=save(tmp_path, x=x, y=y))
