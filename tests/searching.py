"""A search in this process: the driver's loop on a pool, an examination and a lab that train and time nothing."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from harness.records import Measurement
from harness.report import load_study
from harness.report.study_data import StudyData
from harness.search.driver import Outcome, search
from harness.search.jobs import Finished
from harness.search.storage import open_storage
from harness.space.space import Space, load_space
from harness.trial.job import Answer
from tests import fake_trial
from tests.spaces import write

SPACE = """
task: {name: digits}
teacher: {model: convnet, width: 16}
student: {model: convnet, width: {choice: [4, 8, 16]}}
train: {epochs: 1, lr: {float: [0.01, 0.3], log: true}}
quant: {bits: {choice: [2, 4, 8, 32]}}
clip:
  choice:
    - {kind: none}
    - {kind: norm, threshold: {float: [0.1, 10], log: true}}
distill: {kind: logits, weight: {float: [0, 1]}}
search: {trials: 14, seed: 1}
"""


class Here:
    """A pool that works in this process: ``wait`` runs the oldest job, a function of ``module``."""

    def __init__(self, slots: int = 2, module: ModuleType = fake_trial):
        self._slots, self._jobs, self._logits, self._held, self._states = slots, [], {}, set(), {}
        self._module = module

    @property
    def free(self):
        return self._slots - len(self._jobs) - len(self._held)

    def idle(self, slot):
        return bool(self.free)

    @property
    def running(self):
        return [job for job, *_ in self._jobs]

    def share(self, logits):
        self._logits = logits

    def submit(self, job, name, *args, logits=False, trials=1, slot=None):
        self._held.discard(job)
        assert len(self._jobs) + len(self._held) < self._slots
        self._jobs.append((job, name, (*args, *([self._logits] if logits else []))))

    def call(self, name, *args, hear=None):
        return getattr(self._module, name)(*args)

    def wait(self, timeout_s):
        if not self._jobs:
            return []
        job, name, args = self._jobs.pop(0)
        fake_trial.OPEN = self._states.setdefault(job, {})  # each slot is a process of its own
        value = getattr(self._module, name)(*args)
        if isinstance(value, Answer) and value.held:
            self._held.add(job)
        return [Finished(job, value)]

    def close(self):
        pass


class Seen:
    """An examination in this process, by functions of ``module`` (not of the one that the driver names)."""

    def __init__(self, named, given, module: ModuleType = fake_trial):
        self._stages = (getattr(module, stage)(*arguments) for stage, arguments in given.items())

    def answer(self):
        return next(self._stages)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class FakeLab:
    """Latency from the file's size; counts how often each file is timed."""

    def __init__(self):
        self.timed: list[str] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def measure(self, paths, reference, runtime, batch_size, threads, budget_s, until_precise=False):
        self.timed += [str(p) for p in paths]
        beside = {"reference_ms": 1.0}
        return [
            Measurement(name="latency_ms", unit="ms", values=[p.stat().st_size / 1000], conditions=beside)
            for p in paths
        ]


def space_of(box: Path, *overrides: str, text: str = SPACE) -> Space:
    return load_space(write(box, text), overrides=overrides)


def search_here(space: Space, folder: Path, **options: Any) -> Outcome:
    """``search`` with the fakes of this module, but for what ``options`` replace."""
    fakes = {"lab": FakeLab, "examine": Seen, "make_pool": lambda *_: Here()}
    return search(space, folder, progress=False, **{**fakes, **options})


def run(box: Path, *overrides: str, name: str = "study", **options: Any) -> Outcome:
    """A search of ``SPACE`` into a folder of the box."""
    return search_here(space_of(box, *overrides), box / name, **options)


def trials_of(folder: Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name=folder.name, storage=open_storage(None, folder)).get_trials()


def started(box: Path) -> list[int]:
    """Numbers of the trials that a fake worker began, in order."""
    return [int(line) for line in (box / "started").read_text().split()]


def searched(box: Path, name: str = "study") -> StudyData:
    """A study of 25 trials in the folder ``name`` of the box, as the report reads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_FAKE", str(box))
        search_here(space_of(box, "search.trials=25"), box / name)
    return load_study(box / name)
