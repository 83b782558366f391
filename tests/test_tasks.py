"""Tasks: declarations, three disjoint parts, normalization from the training part."""

import inspect
import os
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.methods import REQUIRED
from harness.tasks import TASKS
from harness.tasks.data import normalization
from harness.tasks.digits import digits
from tests.tasks import PARTS

ROOT = Path(__file__).resolve().parents[1]


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


def test_normalization_is_of_the_training_part():
    data = digits()
    x = data.train[0].double()
    assert data.mean == (pytest.approx(x.mean().item(), rel=1e-6),)
    assert data.std == (pytest.approx(x.std(correction=0).item(), rel=1e-6),)


def test_normalization_per_channel_per_feature_and_of_bytes():
    x = np.random.default_rng(0).normal(3, 2, (2500, 4, 5, 6)).astype(np.float32)
    x[:, 2] = 7.0
    mean, std = normalization(x)
    np.testing.assert_allclose(mean, x.mean((0, 2, 3), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(std[:2], x.std((0, 2, 3), dtype=np.float64)[:2], rtol=1e-6)
    assert std[2] == 1.0  # constant
    assert len(normalization(x[:, 0, 0])[0]) == 6
    assert len(normalization(x[:, 0, 0].astype(np.uint8))[0]) == 1


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
