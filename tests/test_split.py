"""Splits: disjoint, whole, stratified."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.tasks.split import split, stratified

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
