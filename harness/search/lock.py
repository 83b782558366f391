"""One driver per study: a lock that the kernel releases when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from harness.errors import SpaceError
from harness.files.access import FileMistake, check_tree, read_bytes

# flock itself, not the filelock package: the locked file also says who holds it and whether the holder starts no more
# trials, and a link in its place is refused.
DRAINING = "draining"
LOCK_BYTES = 10_000


def holder(folder: Path) -> str:
    """State and process of the driver that works on the study in ``folder``; empty if there is none.

    The state is ``running``, or ``draining``: the driver starts no more trials.
    """
    path = folder / "run.lock"
    try:
        read_bytes(path, LOCK_BYTES, folder)
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, FileMistake):
        return ""
    except OSError:
        pid, *state = (folder / "run.lock").read_text(errors="replace").splitlines() or [""]
        return f"{DRAINING if DRAINING in state else 'running'} ({pid})"
    return ""


def mark_draining(folder: Path) -> None:
    """Write into the lock file of ``folder`` that its holder starts no more trials."""
    with open(folder / "run.lock", "a") as file:
        file.write(f"{DRAINING}\n")


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock ``folder/run.lock`` and write this process into it.

    Raises:
        SpaceError: another driver holds the lock, or the folder contains a link or something else that is neither
            a plain file nor a folder.
    """
    check_tree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.lock"
    with open(path, "a+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise SpaceError(
                str(folder),
                f"another search runs on this study ({file.read().strip()})",
                remedy="Wait for it, stop it, or choose another --study name.",
            ) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
