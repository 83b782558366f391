"""Searches in processes of their own, on real Ray workers that train nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SPACE = """
task: {name: digits}
student: {model: convnet, width: {choice: [4, 8, 16]}}
train: {epochs: 1, lr: {float: [0.01, 0.3], log: true}}
quant: {bits: {choice: [2, 4, 8, 32]}}
search: {trials: %d, timeout_s: %g, retries: 1}
resources: {slots: 2}
"""
DRIVE = """
import logging, os, sys
from harness.errors import HarnessError, SpaceError
from harness.search.driver import search
from harness.search import pool
from harness.space.space import load_space
pool.WAITS_S = float(os.environ.get("WAITS_S", pool.WAITS_S))
logging.basicConfig(level=logging.WARNING, format="%(message)s")
address = sys.argv[3] if len(sys.argv) > 3 else None
try:
    ended = search(load_space(sys.argv[1]), sys.argv[2], address=address, progress=False, module="tests.fake_trial")
except HarnessError as error:
    print(f"harness: {error}", file=sys.stderr)
    sys.exit(2 if isinstance(error, SpaceError) else 1)
except KeyboardInterrupt as error:
    sys.exit(error.exit_code)
print(ended.status, ended.finished, ended.failed)
sys.exit(ended.exit_code)
"""


class Study:
    """A study in a folder of its own, searched by a process of its own."""

    def __init__(self, folder: Path, trials: int = 12, timeout_s: float = 100):
        self.folder, self.box = folder / "study", folder / "box"
        self.box.mkdir()
        (folder / "space.yaml").write_text(SPACE % (trials, timeout_s))
        self._space = folder / "space.yaml"

    def start(self, *address: str, trial_s: float = 0.0, import_s: float = 0.0, **more: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "HARNESS_FAKE": str(self.box), "HARNESS_FAKE_S": str(trial_s), **more}
        environment["HARNESS_FAKE_IMPORT_S"] = str(import_s)
        command = [sys.executable, "-c", DRIVE, str(self._space), str(self.folder), *address]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, *address: str) -> str:
        driver = self.start(*address)
        out, err = driver.communicate(timeout=200)
        assert driver.returncode == 0, err
        return out.strip().splitlines()[-1]  # Ray may print above it

    def files(self) -> dict[int, int]:
        """When the file of each trial that has a record was written."""
        records = self.folder.glob("trials/*/record.json")
        return {int(p.parent.name): p.with_name("model.onnx").stat().st_mtime_ns for p in records}

    def started(self) -> Counter[int]:
        path = self.box / "started"
        return Counter(int(line) for line in path.read_text().split()) if path.exists() else Counter()

    def wait_for_records(self, count: int) -> None:
        wait_until(lambda: len(self.files()) >= count, "the search does not get on")

    def left(self) -> list[str]:
        """The command lines of processes that have this study's environment, by the system's own list."""
        return [line for line in map(self._of_this_study, Path("/proc").glob("[0-9]*")) if line]

    def _of_this_study(self, process: Path) -> str:
        try:
            if f"HARNESS_FAKE={self.box}".encode() in (process / "environ").read_bytes().split(b"\0"):
                return (process / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has ended meanwhile, or is another user's
            pass
        return ""


def said(err: str) -> list[str]:
    """Lines of a driver's standard error, without the log of Ray's C++ core, and without that Ray is started once more,
    which is true on a slow machine."""
    core = re.compile(r"\[\d{4}-\d\d-\d\d .* [IWE] \d+ \d+\] ")
    lines = [line for line in err.splitlines() if line.strip()]
    return [line for line in lines if not core.match(line) and not line.startswith("Ray did not start")]


def wait_until(holds: Callable[[], Any], what: str, seconds: float = 300) -> None:
    """Fails with ``what`` where the condition does not hold in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
