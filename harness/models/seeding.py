"""Seeding of all global random number generators.

A student, its initialization or a user's data function may draw from the global generators of torch
(``nn.Dropout``, ``torch.rand``; on every device), numpy (``np.random.rand``) and Python (``random``).
A user's code that creates its own generator must seed it itself.
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
    """Seed the global generators with ``words`` (each >= 0; a single word is the seed itself) on entry, and restore
    their states on exit."""
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
    """Whether ``work()`` draws from the global generators. Their states are restored."""
    with seeded(0), _TorchDraws() as torchs:
        before = _positions()
        work()
        return torchs.seen or _positions() != before


class _TorchDraws(TorchDispatchMode):
    """Records whether this thread calls a torch operator that draws. The generator's state would not do: another thread
    may change it meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _positions() -> tuple[object, ...]:
    """The states of numpy's and Python's generators."""
    _, keys, place, *_ = np.random.get_state(legacy=True)
    return np.asarray(keys).tobytes(), place, random.getstate()
