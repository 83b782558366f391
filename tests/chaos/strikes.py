"""Attacks on a search's file operations, one at a time. No Ray.

A search with the fake trial runs in a forked process behind a shim (:mod:`tests.chaos.disk`) that counts
every operation on a file of the study: opening for writing, write, fsync, rename, unlink, mkdir,
truncate. At the n-th one it strikes. Then the search is resumed until it is complete, and what must
hold is checked (:mod:`tests.oracle`).
"""

from __future__ import annotations

import atexit
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import optuna
import pytest

from harness.errors import HarnessError
from harness.space.space import load_space
from tests.chaos import Case
from tests.chaos.disk import Disk
from tests.oracle import SPACE, Snapshot, violations
from tests.searching import search_here

COMPLETE, REFUSED, CRASHED = 0, 10, 20  # how the forked search ended


def _forked(work: Callable[[], None], log: Path) -> int:
    """Exit code of a forked process that does ``work``; below 0: the signal that ended it."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = CRASHED
    try:
        sys.stderr = sys.stdout = io.StringIO()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what is said when the process is killed
        work()
        code = COMPLETE
    except BaseException as error:
        code = REFUSED if isinstance(error, HarnessError | KeyboardInterrupt) else CRASHED  # one line each
        with open(log, "a") as file:
            file.write("".join(traceback.format_exception(error)))
    finally:
        os._exit(code)


def search_in(box: Path, disk: Disk | None = None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_FAKE", str(box))
        space = load_space(box / "space.yaml")
        if disk is not None:
            disk.install()
        search_here(space, box / "study")


def new_box(parent: Path, text: str = SPACE) -> Path:
    box = Path(tempfile.mkdtemp(dir=parent))
    (box / "space.yaml").write_text(text)
    return box


def operations(parent: Path, text: str = SPACE) -> list[str]:
    """Names of the file operations of an undisturbed search."""
    box = new_box(parent, text)

    def counted() -> None:
        disk = Disk(box / "study")
        search_in(box, disk)
        (box / "operations").write_text(json.dumps(disk.names))

    assert _forked(counted, box / "log") == COMPLETE, (box / "log").read_text()
    names = json.loads((box / "operations").read_text())
    shutil.rmtree(box)
    return names


def attack(parent: Path, mode: str, at: int, text: str = SPACE) -> list[str]:
    """Strike at one operation, resume, and name what does not hold."""
    box = new_box(parent, text)
    log = box / "log"
    ended = _forked(lambda: search_in(box, Disk(box / "study", mode, at)), log)
    found: list[str] = []
    if mode in ("kill", "torn") and ended != -signal.SIGKILL:
        found.append(f"strike: the search ended with {ended} instead")
    if mode not in ("kill", "torn") and ended == CRASHED:
        found.append(f"end: a traceback: {log.read_text().splitlines()[-1]}")
    before = Snapshot.of(box)
    if mode == "stop" and ended == COMPLETE:
        found += [f"I3: trial {number} is RUNNING after Ctrl-C" for number in before.running]
    resumed = _forked(lambda: search_in(box), log)
    if resumed != COMPLETE:
        return [*found, f"resume: it ended with {resumed}: {log.read_text().splitlines()[-1]}"]
    found += [*violations(box, before)]
    shutil.rmtree(box)
    return found


def points_of(names: list[str], mode: str) -> list[int]:
    """Where a mode strikes: at every operation, a torn one at every write."""
    return [n for n, name in enumerate(names, 1) if mode != "torn" or name == "write"]


@cache
def _prepared() -> tuple[Path, list[str]]:
    """A folder for the studies, and the operations of an undisturbed search."""
    parent = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    search_in(new_box(parent))  # what it imports, the forked ones have
    return parent, operations(parent)


def strikes(mode: str) -> Iterator[Case]:
    """A strike of one mode at every operation; CHAOS_STEP=20 strikes at every twentieth."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parent, names = _prepared()
    for at in points_of(names, mode)[:: int(os.environ.get("CHAOS_STEP", "1"))]:
        yield f"operation {at} of {len(names)} ({names[at - 1]})", attack(parent, mode, at)
