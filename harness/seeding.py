"""Random numbers that a seed decides, whoever draws them.

A student, its first weights or a user's data may draw from the generators of the whole process: torch's
(``nn.Dropout``, ``torch.rand``; on every device), numpy's (``np.random.rand``) and Python's (``random``).
A generator that a user's code makes for itself is that code's to seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch


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
    with seeded(0):
        before = _positions()
        work()
        return _positions() != before


def _positions() -> tuple[object, ...]:
    _, keys, place, *_ = np.random.get_state(legacy=True)
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]
    return (keys.tobytes(), place, random.getstate(), *(s.numpy().tobytes() for s in states))
