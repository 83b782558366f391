"""scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, values 0..16. Part of scikit-learn, so no download."""

from __future__ import annotations

from importlib.metadata import distribution

import numpy as np

from harness.tasks.checks import numbered
from harness.tasks.data import VALIDATION, Data, assemble
from harness.tasks.split import rows_of
from harness.tasks.split import split as carve

# The file that ``sklearn.datasets.load_digits`` reads. It is read directly because importing scikit-learn takes 2 to
# 3 s in every worker.
FILE = "sklearn/datasets/data/digits.csv.gz"
_TEST_SEED = 0


def digits(validation: float = VALIDATION, split_seed: int = 0, test: float = 0.2, split: str = "") -> Data:
    """Digits as bytes (1, 8, 8).

    The data set has no test part. The share ``test`` is set aside with a fixed seed, so that ``split_seed`` moves
    samples only between training and validation. The file ``split`` has the rows of all three parts, numbered
    as in scikit-learn's ``load_digits``.
    """
    table = np.loadtxt(str(distribution("scikit-learn").locate_file(FILE)), delimiter=",", dtype=np.uint8)
    x, y = table[:, :64].reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64)
    if split:
        parts = [(x[rows], y[rows]) for rows in rows_of(split, len(y), ("train", "validation", "test"))]
        numbered("task.split", dict(zip(("train", "validation", "test"), parts, strict=True)))
        return assemble(parts[0], parts[2], validation=parts[1])
    rest, held = carve(y, test, _TEST_SEED)
    return assemble((x[rest], y[rest]), (x[held], y[held]), validation=validation, split_seed=split_seed)
