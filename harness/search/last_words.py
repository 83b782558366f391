"""A message for the case that this process is ended without a chance to print one."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator

# Reads from this process. A line means that the search has ended by itself; the end of the pipe, that its process died.
SCRIPT = 'read -r ended || printf "%s\\n" "$0" >&2'


@contextlib.contextmanager
def last_words(text: str) -> Iterator[None]:
    """If this process dies within this context, a shell prints ``text`` to standard error.

    The kernel ends a process when memory runs out. Ray ends its driver when the raylet ends because one of its agents
    died (seen with Ray 2.60: exit code 1, no exception). Without a shell nothing is printed.
    """
    shell = shutil.which("sh")
    if shell is None:
        yield
        return
    # In a session of its own, so that Ctrl-C in the terminal does not reach it.
    command = [shell, "-c", SCRIPT, text]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as waiting:
        try:
            yield
        finally:
            with contextlib.suppress(BrokenPipeError):
                waiting.communicate(b"\n")
