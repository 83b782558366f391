"""MNIST as ten features: what `teacher_gradients.yaml` trains its networks of ten inputs on."""

from __future__ import annotations

import numpy as np

from harness.tasks.vision import mnist as pictures

FEATURES = 10


def mnist(train_limit: int = 0) -> dict[str, np.ndarray]:
    """The first ten principal components of the pixels, found on the training part."""
    data = pictures(train_limit=train_limit)
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    flat = {name: x.flatten(1).numpy().astype(np.float32) / 255 for name, (x, _) in parts.items()}
    centered = flat["train"] - flat["train"].mean(axis=0)
    _, vectors = np.linalg.eigh((centered.T @ centered).astype(np.float64))  # ascending
    basis = vectors[:, ::-1][:, :FEATURES].astype(np.float32)
    found = {f"x_{name}": (x - flat["train"].mean(axis=0)) @ basis for name, x in flat.items()}
    return found | {f"y_{name}": y.numpy() for name, (_, y) in parts.items()}
