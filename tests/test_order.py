"""Quantiles of sorted rows against numpy's, mapped over shares, and of rows longer than float32 can count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.techniques.order import percentile


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_quantiles_are_numpys_for_every_share_of_a_mapped_call(values: list[float], shares: list[float]) -> None:
    ascending = torch.tensor(sorted(values), dtype=torch.float64)
    found = torch.vmap(lambda share: percentile(ascending, share))(torch.tensor(shares, dtype=torch.float64))
    assert found.numpy() == pytest.approx(np.quantile(values, shares), rel=1e-9, abs=1e-6)


def test_a_row_of_more_values_than_float32_counts_exactly() -> None:
    n = 2**24 + 3  # float32 rounds n - 1 to n
    ascending = torch.linspace(0, 1, n)
    assert percentile(ascending, torch.tensor(1.0)) == 1
    assert float(percentile(ascending, torch.tensor(0.25))) == pytest.approx(0.25, abs=1e-6)
