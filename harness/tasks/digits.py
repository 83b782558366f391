"""scikit-learn's 1,797 real handwritten digits, 8 x 8, values 0..16: installed with it, no download."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.tasks.data import VALIDATION, Data, assemble
from harness.tasks.split import split

_TEST_SEED = 0


def digits(validation: float = VALIDATION, split_seed: int = 0, test: float = 0.2) -> Data:
    """Digits as bytes (1, 8, 8).

    The set has no test part of its own; ``test`` of it is set aside by a fixed seed, so that
    another ``split_seed`` moves samples between training and validation only.
    """
    from sklearn.datasets import load_digits  # slow to import: paid only where it is used

    bunch: Any = load_digits()
    x, y = bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.int64)
    rest, held = split(y, test, _TEST_SEED)
    return assemble((x[rest], y[rest]), (x[held], y[held]), validation=validation, split_seed=split_seed)
