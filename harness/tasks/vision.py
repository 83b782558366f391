"""MNIST, Fashion-MNIST and CIFAR-10 in torchvision's folder layout.

They are searched in ``root`` (default: the folder named by ``HARNESS_DATA``), then in the user's cache. If neither has
them and ``download`` is true, torchvision downloads them into the cache. If a folder holds only the original .gz
files, these are decompressed into the cache; the folder may be read-only.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import SpaceError
from harness.files.folders import cache_folder, data_roots
from harness.tasks.arrays import from_files
from harness.tasks.checks import Samples
from harness.tasks.data import VALIDATION, Data, assemble
from harness.tasks.idx import read, unpacked

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_CIFAR = "cifar-10-batches-py"
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_PICTURES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def mnist(
    validation: float = VALIDATION,
    split_seed: int = 0,
    train_limit: int = 0,
    root: str = "",
    download: bool = True,
    split: str = "",
) -> Data:
    """LeCun's 60,000 + 10,000 handwritten digits, bytes (1, 28, 28)."""
    train, test = _idx_set("MNIST", root, download)
    options = {"validation": validation, "split_seed": split_seed, "train_limit": train_limit, "rows": split}
    return assemble(train, test, **options)


def fashion_mnist(
    validation: float = VALIDATION,
    split_seed: int = 0,
    train_limit: int = 0,
    root: str = "",
    download: bool = True,
    split: str = "",
) -> Data:
    """Zalando's 60,000 + 10,000 images of clothes, bytes (1, 28, 28)."""
    train, test = _idx_set("FashionMNIST", root, download)
    options = {"validation": validation, "split_seed": split_seed, "train_limit": train_limit, "rows": split}
    return assemble(train, test, class_names=_CLOTHES, **options)


def cifar10(
    validation: float = VALIDATION,
    split_seed: int = 0,
    train_limit: int = 0,
    root: str = "",
    download: bool = True,
    split: str = "",
) -> Data:
    """Krizhevsky's 50,000 + 10,000 small images, bytes (3, 32, 32).

    Read from torchvision's ``cifar-10-batches-py``, else from ``cifar10/{train*,test}.npz``.
    """
    options: dict[str, Any] = {"validation": validation, "split_seed": split_seed, "train_limit": train_limit}
    options |= {"rows": split, "class_names": _PICTURES}
    for folder in data_roots(root):
        if (folder / _CIFAR).is_dir():
            return assemble(*_pictures(folder), **options)
        parts, test = sorted((folder / "cifar10").glob("train*.npz")), folder / "cifar10" / "test.npz"
        if parts and test.is_file():
            return from_files(parts, [test], **options)
    if not download:
        raise _absent("CIFAR-10", root)
    return assemble(*_pictures(_downloaded("CIFAR10", _CIFAR)), **options)


def _pictures(folder: Path) -> tuple[Samples, Samples]:
    train, test = (_opened("CIFAR10", folder, part) for part in (True, False))
    return _channels_first(train), _channels_first(test)


def _channels_first(dataset: Any) -> Samples:
    return np.ascontiguousarray(dataset.data.transpose(0, 3, 1, 2)), np.array(dataset.targets, dtype=np.int64)


def _idx_set(name: str, root: str, download: bool) -> tuple[Samples, Samples]:
    folder = _idx_root(name, root)
    if folder is None and not download:
        raise _absent(name, root)
    folder = folder or _downloaded(name, f"{name}/raw")
    files = [folder / name / "raw" / file for file in IDX_FILES]
    arrays = [read(file) for file in files]
    for file, array, dims in zip(files, arrays, (3, 1, 3, 1), strict=True):
        if array.ndim != dims:
            raise SpaceError("task.name", f"{file} must have {dims} dimension(s)", array.ndim, "Copy it again.")
    images, labels, test_images, test_labels = arrays
    return (images[:, None], labels.astype(np.int64)), (test_images[:, None], test_labels.astype(np.int64))


def _idx_root(name: str, root: str) -> Path | None:
    """The first folder that has the four files (only archives: decompressed first); None if there is none."""
    for folder in data_roots(root):
        raw = folder / name / "raw"
        if all((raw / file).is_file() for file in IDX_FILES):
            return folder
        archives = [raw / f"{file}.gz" for file in IDX_FILES]
        if all(archive.is_file() for archive in archives):
            return unpacked(archives, cache_folder() / "data", f"{name}/raw")
    return None


def _opened(name: str, folder: Path, train: bool, download: bool = False) -> Any:
    from torchvision import datasets  # here, because the import takes 4 to 5 s

    try:
        return getattr(datasets, name)(folder, train=train, download=download)
    except Exception as error:  # torchvision lets network, file and archive errors through
        failed = f"download {name}" if download else f"read {name} in {folder}"
        reason = str(error).strip() or type(error).__name__
        raise SpaceError("task.name", f"torchvision cannot {failed} ({reason})", remedy=_REMEDY) from error


_REMEDY = "Set HARNESS_DATA (or task.root) to a folder that has it."


def _downloaded(name: str, inside: str) -> Path:
    """Download into the cache: first into a temporary folder, so that a partial download is never used."""
    cache = cache_folder() / "data"
    try:
        (cache / inside).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            _opened(name, Path(partial), train=True, download=True)
            if not (cache / inside).exists():  # another process may have been faster
                os.replace(Path(partial) / inside, cache / inside)
    except OSError as error:
        raise SpaceError("task.name", f"{name} cannot be stored in {cache} ({error})", remedy=_REMEDY) from error
    return cache


def _absent(name: str, root: str) -> SpaceError:
    looked = ", ".join(str(folder) for folder in data_roots(root))
    return SpaceError(
        "task.name", f"{name} is not there (looked in {looked})", remedy=f"{_REMEDY} Or allow task.download."
    )
