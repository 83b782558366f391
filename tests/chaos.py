"""Attacks on a search's file operations, one at a time. No Ray.

A search with the fake trial runs in a forked process behind a shim (:mod:`tests.disk`) that counts
every operation on a file of the study: opening for writing, write, fsync, rename, unlink, mkdir,
truncate. At the n-th one it strikes. Then the search is resumed until it is complete, and what must
hold is checked (:mod:`tests.oracle`).

``python -m tests.chaos [MODE ...]`` strikes at every n and prints a table (minutes to an hour).
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna

from harness.errors import HarnessError
from harness.search.driver import search
from harness.space import load_space
from tests.disk import MODES, Disk
from tests.oracle import SPACE, Snapshot, violations
from tests.test_search import FakeLab, Here

COMPLETE, REFUSED, CRASHED = 0, 10, 20  # how the forked search ended


def _forked(work: Callable[[], None], log: Path) -> int:
    """Exit code of a forked process that does ``work``; below 0: the signal that ended it."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = CRASHED
    try:
        sys.stderr = sys.stdout = io.StringIO()
        work()
        code = COMPLETE
    except BaseException as error:
        code = REFUSED if isinstance(error, HarnessError | KeyboardInterrupt) else CRASHED  # one line each
        with open(log, "a") as file:
            file.write("".join(traceback.format_exception(error)))
    finally:
        os._exit(code)


def search_in(box: Path, disk: Disk | None = None) -> None:
    os.environ["HARNESS_FAKE"] = str(box)
    space = load_space(box / "space.yaml")
    if disk is not None:
        disk.install()
    search(space, box / "study", progress=False, lab=FakeLab, make_pool=lambda *_: Here())


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


def main(modes: list[str]) -> int:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    step = int(os.environ.get("CHAOS_STEP", "1"))  # strike at every so manieth
    broken = 0
    with tempfile.TemporaryDirectory() as place:
        parent = Path(place)
        search_in(new_box(parent))  # what it imports, the forked ones have
        names = operations(parent)
        print(f"{len(names)} operations: {dict(Counter(names))}", flush=True)
        for mode in modes or MODES:
            started, seen, struck = time.monotonic(), Counter(), []
            points = points_of(names, mode)[::step]
            for at in points:
                found = attack(parent, mode, at)
                seen.update({v.split(":")[0] for v in found})
                struck += [f"  {mode} {at} ({names[at - 1]}): {v}" for v in found]
            broken += len(struck)
            kinds = ", ".join(f"{kind} at {count}" for kind, count in sorted(seen.items())) or "none"
            took = f"{time.monotonic() - started:.0f} s"
            print(f"{mode:9} {len(points):4} points, violations: {kinds} ({took})", flush=True)
            print("".join(f"{line}\n" for line in struck), end="", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
