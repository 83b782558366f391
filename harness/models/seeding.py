"""Random numbers that a seed decides, whoever draws them.

A student, its first weights or a user's data may draw from the generators of the whole process: torch's
(``nn.Dropout``, ``torch.rand``; on every device), numpy's (``np.random.rand``) and Python's (``random``).
A generator that a user's code makes for itself is that code's to seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def seeded(*words: int) -> Iterator[None]:
    """While open, those generators start from ``words`` (>= 0; one word is the seed itself); afterwards they
    stand where they stood before."""
    seed = words[0] if len(words) == 1 else int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    numpys, pythons = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices):
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed_all(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)


def draws(work: Callable[[], object]) -> bool:
    """Does ``work()`` draw from those generators? They stand where they stood before afterwards."""
    with seeded(0), _TorchDraws() as torchs:
        before = _positions()
        work()
        return torchs.seen or _positions() != before


class _TorchDraws(TorchDispatchMode):
    """Notes whether this thread calls an operator that draws. Another thread may move the generator meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _positions() -> tuple[object, ...]:
    """Where numpy's and Python's generators stand."""
    _, keys, place, *_ = np.random.get_state(legacy=True)
    return np.asarray(keys).tobytes(), place, random.getstate()
