"""Attacks on the processes of a search on real Ray: signals at every phase, parts killed, parts that stand still.

After each the search is given again until it is complete. Then no process of it may be left and no trial open.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from optuna.trial import TrialState

from tests.chaos import Case
from tests.driving import Study, wait_until
from tests.driving import said as lines
from tests.searching import trials_of

Driver = subprocess.Popen[str]
GONE_S = 10
WORKER = "ray::Worker"


def _imported(study: Study) -> bool:
    return bool(study.left())


PHASES: dict[str, tuple[dict[str, str], Callable[[Study], object]]] = {
    "import": ({}, _imported),
    "preparing": ({"HARNESS_FAKE_PREPARE_S": "20"}, lambda study: (study.box / "preparing").exists()),
    "searching": ({"HARNESS_FAKE_S": "0.5"}, lambda study: study.started()),
    "late": ({"HARNESS_FAKE_S": "0.3"}, lambda study: len(study.files()) >= 11),
    "scoring": ({}, lambda study: (study.box / "tested").exists()),
}
SENT = {
    "Ctrl-C": [signal.SIGINT],
    "SIGTERM": [signal.SIGTERM],
    "Ctrl-C twice": [signal.SIGINT] * 2,
    "SIGTERM, Ctrl-C": [signal.SIGTERM, signal.SIGINT],
}


def signals() -> Iterator[Case]:
    """Each signal in each phase; while draining where there are two."""
    for (phase, (more, reached)), (name, numbers) in itertools.product(PHASES.items(), SENT.items()):
        yield f"{name} while {phase}", _in_a_study(lambda s, m=more, r=reached, n=numbers: _signalled(s, m, r, n))


def _signalled(study: Study, more: dict[str, str], reached: Callable[[Study], object], numbers: list[int]) -> list[str]:
    driver = study.start(**more)
    wait_until(lambda: reached(study) or driver.poll() is not None, "the phase is not reached")
    imported = _imported(study)  # before it has gone
    for number in numbers:
        driver.send_signal(number)
        time.sleep(0.2)
    _, said = driver.communicate(timeout=120)
    fits = {0, *(code for number in numbers for code in (-number, 128 + number))}
    found = [] if driver.returncode in fits else [f"exit code {driver.returncode}"]
    return found + ([f"said: {said[-300:]}"] if "Traceback" in said and imported else [])


def _at_work(study: Study, trial_s: float = 0.3) -> Driver:
    """A search that has two records, and more to do."""
    driver = study.start(trial_s=trial_s)
    study.wait_for_records(2)
    return driver


def parts() -> Iterator[Case]:
    """Ray's processes killed: all but a worker end the search."""
    for name in ("raylet", "gcs_server", "ray::DashboardAgent", "ray::RuntimeEnvAgent", WORKER):
        yield f"{name} killed", _in_a_study(lambda study, n=name: _killed(study, n))


def _killed(study: Study, name: str) -> list[str]:
    driver = _at_work(study, trial_s=2)  # Ray needs seconds to notice that its GCS is gone
    _part(driver, name).kill()
    _, said = driver.communicate(timeout=120)
    if name == WORKER:
        return [] if driver.returncode == 0 else [f"exit code {driver.returncode}: {said[-300:]}"]
    ours = [line for line in lines(said) if line.startswith("harness: ")]  # the log may have said what Ray lacks
    whole = driver.returncode == 1 and len(ours) == 1 and "Continue with" in ours[0] and "Traceback" not in said
    return [] if whole else [f"exit code {driver.returncode}: {said[-600:]}"]


def standstill() -> Iterator[Case]:
    """The driver and a worker stopped for a while, and going on."""
    for name in ("driver", WORKER, "raylet"):
        yield f"{name} stopped for 5 s", _in_a_study(lambda study, n=name: _stopped(study, n))


def _stopped(study: Study, name: str) -> list[str]:
    driver = _at_work(study)
    part = psutil.Process(driver.pid) if name == "driver" else _part(driver, name)
    part.suspend()
    time.sleep(5)
    part.resume()
    out, said = driver.communicate(timeout=200)
    return [] if out.strip().endswith("complete 12 0") else [f"it ended with {driver.returncode}: {said[-300:]}"]


def _part(driver: Driver, name: str) -> psutil.Process:
    parts = psutil.Process(driver.pid).children(recursive=True)
    return next(p for p in parts if p.name() == name or (name == WORKER and p.name().startswith(name)))


def _in_a_study(work: Callable[[Study], list[str]]) -> list[str]:
    """``work`` on a study of its own; then what must hold after it and after the next run."""
    with tempfile.TemporaryDirectory() as place:
        study = Study(Path(place))
        found = work(study)
        before, until = study.files(), time.monotonic() + GONE_S
        while study.left() and time.monotonic() < until:
            time.sleep(0.2)
        found += [f"left: {line[:80]}" for line in study.left()]
        if (ended := study.run()) != "complete 12 0" and not ended.startswith("already complete"):
            found.append(f"the next run: {ended}")
        if not before.items() <= study.files().items():
            found.append("a finished trial was written again")
        found += [f"trial {t.number} is RUNNING" for t in trials_of(study.folder) if t.state is TrialState.RUNNING]
        return found
