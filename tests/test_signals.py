"""Signals that arrive inside a library's wait, which replaces the handler's exception as Ray's does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from harness.search.last_words import last_words
from harness.search.signals import Interrupted, Stop


def wait_like_rays(number: int) -> None:
    """``ray._raylet.check_status``: the handler runs inside the call, and its exception is dropped."""
    try:
        os.kill(os.getpid(), number)
    except Interrupted:
        pass
    else:
        return
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_inside_a_wait_keeps_its_number(number: int) -> None:
    with pytest.raises(Interrupted) as caught, Stop():
        wait_like_rays(number)
    assert caught.value.exit_code == 128 + number


def test_the_second_signal_inside_a_wait_ends_it() -> None:
    with Stop() as stop:
        stop.drain()
        with pytest.raises(Interrupted) as caught, stop.twice_ends():
            wait_like_rays(signal.SIGINT)
            assert stop.asked and not stop.now
            wait_like_rays(signal.SIGTERM)
        assert caught.value.exit_code == 143 and stop.now


def test_a_keyboard_interrupt_without_a_signal_stays_what_it_is() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, Stop():
        raise KeyboardInterrupt
    assert type(caught.value) is KeyboardInterrupt


DYING = """
import os, sys
from harness.search.last_words import last_words
with last_words("harness: killed; continue"):
    {end}
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("os.kill(os.getpid(), 9)", -9, "harness: killed; continue\n"),
        ("os._exit(1)", 1, "harness: killed; continue\n"),  # as Ray's core worker does
        ("sys.exit(3)", 3, ""),
        ("pass", 0, ""),
    ],
)
def test_a_process_that_is_killed_leaves_a_message(end: str, code: int, said: str) -> None:
    ran = subprocess.run([sys.executable, "-c", DYING.format(end=end)], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (code, said)


def test_without_a_shell_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with last_words("unheard"):
        pass
