"""torchvision's sets: archives, downloads, the real ones."""

import functools
import gzip
import hashlib
import http.server
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.tasks import PARTS, SETS, load, message, needs, samples


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


def test_files_that_are_exchanged_are_named(small_mnist):
    images, labels = (small_mnist / f"t10k-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    labels.write_bytes(images.read_bytes())
    assert "t10k-labels-idx1-ubyte must have 1 dimension(s), but got 3" in message("mnist")


def test_reading_needs_no_torchvision(small_mnist):
    code = (
        "import sys\nfrom harness.tasks.vision import mnist\nmnist(download=False)\nprint('torchvision' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.strip() == "False", ran.stderr


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
