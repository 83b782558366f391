"""Tasks: three disjoint parts, normalisation from train, the user's arrays and functions."""

import functools
import gzip
import hashlib
import http.server
import inspect
import os
import struct
import subprocess
import sys
import threading
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SpaceError
from harness.methods import REQUIRED
from harness.recipe import Selected
from harness.tasks import TASKS
from harness.tasks.data import Data, load_data, normalisation
from harness.tasks.digits import digits
from harness.tasks.split import split, stratified

ROOT = Path(__file__).resolve().parents[1]
SETS = Path(os.environ.get("HARNESS_DATA") or ROOT.parent / "shared" / "data")
PARTS = ("train", "validation", "test")


def load(name: str, **options) -> Data:
    return load_data(Selected(name=name, options=options))


def message(name: str, **options) -> str:
    with pytest.raises(SpaceError) as caught:
        load(name, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_declared_params_are_the_functions_keywords(name):
    function, declared = TASKS[name].load(), TASKS[name].params
    keywords = inspect.signature(function).parameters
    assert set(keywords) == set(declared)
    hints = typing.get_type_hints(function)
    for key, param in declared.items():
        assert hints[key] is param.type
        expected = inspect.Parameter.empty if param.default is REQUIRED else param.default
        assert keywords[key].default == expected


# split

labels_strategy = st.lists(st.integers(0, 4), min_size=2, max_size=120).map(np.array)


@given(labels_strategy, st.floats(0.01, 0.99), st.integers(0, 5))
def test_split_is_disjoint_whole_and_stratified(labels, share, seed):
    kept, carved = split(labels, share, seed)
    assert sorted([*kept, *carved]) == list(range(len(labels)))
    sizes = np.bincount(labels, minlength=5)
    taken = np.bincount(labels[carved], minlength=5)
    for size, n in zip(sizes, taken, strict=True):
        assert n == 0 if size < 2 else 1 <= n < size
    if (sizes[sizes > 0] * min(share, 1 - share) >= 1).all():  # no class is at a limit
        assert (abs(taken - sizes * round(share * len(labels)) / len(labels)) < 1 + 1e-9).all()
        assert len(carved) == round(share * len(labels))


@given(labels_strategy, st.integers(1, 120), st.integers(0, 3))
def test_stratified_choice_has_the_count_asked_for(labels, count, seed):
    chosen = stratified(labels, count, seed)
    assert len(chosen) == len(set(chosen)) == min(max(count, len(np.unique(labels))), len(labels))
    assert (chosen == stratified(labels, count, seed)).all()


# digits


def test_digits_parts_are_disjoint_and_whole():
    from sklearn.datasets import load_digits

    data = digits()
    rows = [x.tobytes() for part in PARTS for x in getattr(data, part)[0].numpy()]
    assert sorted(rows) == sorted(x.astype(np.uint8).tobytes() for x in load_digits().images)
    assert data.input_shape == (1, 8, 8)
    assert data.classes == 10
    assert all(len(getattr(data, part)[1].unique()) == 10 for part in PARTS)
    assert len(data.test[1]) == 359
    assert data.train[0].max() == 16


def test_another_split_seed_moves_validation_and_leaves_test():
    a, b = digits(split_seed=0), digits(split_seed=1)
    assert torch.equal(a.test[0], b.test[0])
    assert not torch.equal(a.validation[0], b.validation[0])


def test_normalisation_is_of_the_training_part():
    data = digits()
    x = data.train[0].double()
    assert data.mean == (pytest.approx(x.mean().item(), rel=1e-6),)
    assert data.std == (pytest.approx(x.std(correction=0).item(), rel=1e-6),)


def test_normalisation_per_channel_per_feature_and_of_bytes():
    x = np.random.default_rng(0).normal(3, 2, (2500, 4, 5, 6)).astype(np.float32)
    x[:, 2] = 7.0
    mean, std = normalisation(x)
    np.testing.assert_allclose(mean, x.mean((0, 2, 3), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(std[:2], x.std((0, 2, 3), dtype=np.float64)[:2], rtol=1e-6)
    assert std[2] == 1.0  # constant
    assert len(normalisation(x[:, 0, 0])[0]) == 6
    assert len(normalisation(x[:, 0, 0].astype(np.uint8))[0]) == 1


def test_fingerprint_is_equal_for_equal_content_in_another_process():
    code = "from harness.tasks.digits import digits; print(digits().fingerprint())"
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert out.stdout.strip() == digits().fingerprint()


def test_fingerprint_differs_with_the_content():
    variants = [digits(), digits(split_seed=1), digits(validation=0.2)]
    assert len({data.fingerprint() for data in variants}) == 3


# arrays


def samples(n=60, classes=3, shape=(4, 4), dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (n, *shape)).astype(dtype), np.arange(n) % classes


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
        ("keys.npz", "y missing, but got ['x', 'labels']"),
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


# the user's function

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
def own(tmp_path, monkeypatch):
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # restores sys.path afterwards
    return name


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
        ("bad_labels", "class numbers 0..2, but got [0, 2, 4]"),
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


# torchvision's sets


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A data folder that holds archives only, and an empty cache."""
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 40), ("t10k", 20)):
        x, y = samples(n, classes=4, shape=(28, 28))
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(x)))
        (raw / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y.astype(np.uint8))))
    return raw


def test_archives_are_unpacked_into_the_cache_and_the_folder_is_left_alone(small_mnist, tmp_path):
    before = sorted(small_mnist.iterdir())
    data = load("mnist", validation=0.2, download=False)
    assert sorted(small_mnist.iterdir()) == before
    assert data.input_shape == (1, 28, 28)
    assert [len(getattr(data, part)[1]) for part in PARTS] == [32, 8, 20]
    unpacked = sorted((tmp_path / "cache").rglob("*ubyte"))
    assert len(unpacked) == 4
    times = [f.stat().st_mtime_ns for f in unpacked]
    assert load("mnist", validation=0.2, download=False).fingerprint() == data.fingerprint()
    assert [f.stat().st_mtime_ns for f in unpacked] == times


def test_other_archives_do_not_meet_old_files(small_mnist):
    first = load("mnist", download=False)
    x, _ = samples(20, shape=(28, 28), seed=1)
    (small_mnist / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(x)))
    assert load("mnist", download=False).fingerprint() != first.fingerprint()


def test_torn_archives_and_files_are_named(small_mnist, tmp_path):
    archive = small_mnist / "train-images-idx3-ubyte.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-100])
    assert "cannot unpack" in message("mnist", download=False)
    archive.write_bytes(gzip.compress(gzip.decompress(whole)[:-5]))
    assert "must have 31376 bytes as its header says, but got 31371" in message("mnist", download=False)
    assert not list((tmp_path / "cache").rglob("train-images*"))
    assert not list((tmp_path / "cache").rglob("tmp*"))


def test_absent_sets_say_where_was_looked(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    for name in ("mnist", "fashion_mnist", "cifar10"):
        text = message(name, root=str(tmp_path / "root"), download=False)
        assert text.startswith("task.name: ")
        assert f"is not there (looked in {tmp_path / 'root'}, {tmp_path / 'data'})" in text
        assert "HARNESS_DATA" in text


def test_a_download_that_fails_leaves_nothing(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr(MNIST, "mirrors", [(tmp_path / "nowhere").as_uri() + "/"])
    assert "cannot download MNIST" in message("mnist")
    assert not [f for f in tmp_path.rglob("*") if f.is_file()]


@pytest.fixture
def mirror(small_mnist, monkeypatch):
    """The small set behind a web server on this machine."""
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(small_mnist))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_download_arrives_in_the_cache(small_mnist, mirror, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.delenv("HARNESS_DATA")
    monkeypatch.setattr(MNIST, "mirrors", [mirror])
    monkeypatch.setattr(
        MNIST, "resources", [(f.name, hashlib.md5(f.read_bytes()).hexdigest()) for f in sorted(small_mnist.iterdir())]
    )
    data = load("mnist")
    assert len(data.test[1]) == 20
    monkeypatch.setattr(MNIST, "mirrors", [])
    assert load("mnist").fingerprint() == data.fingerprint()


def needs(folder: str):
    return pytest.mark.skipif(not (SETS / folder).is_dir(), reason=f"no {folder} in {SETS}: set HARNESS_DATA")


@pytest.mark.parametrize(
    ("name", "shape", "mean", "std"),
    [
        pytest.param("mnist", (1, 28, 28), [33.3], [78.6], marks=needs("MNIST")),
        pytest.param("fashion_mnist", (1, 28, 28), [72.9], [90.0], marks=needs("FashionMNIST")),
        pytest.param("cifar10", (3, 32, 32), [125.3, 122.9, 113.9], [63.0, 62.1, 66.7], marks=needs("cifar10")),
    ],
)
def test_real_sets(name, shape, mean, std, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    data = load(name, root=str(SETS), download=False)
    assert data.input_shape == shape
    assert data.classes == 10
    assert len(data.test[1]) == 10_000
    assert len(data.train[1]) + len(data.validation[1]) == (50_000 if name == "cifar10" else 60_000)
    np.testing.assert_allclose(data.mean, mean, atol=0.4)
    np.testing.assert_allclose(data.std, std, atol=0.4)
