"""A trial module that says how far it is."""

from __future__ import annotations

import os
import time

from harness.trial.announce import announce

getpid = os.getpid


def steps(count: int) -> int:
    """Takes ``count`` steps of 1.5 seconds."""
    for step in range(1, count + 1):
        announce(f"step {step} of {count}")
        time.sleep(1.5)
    return count
