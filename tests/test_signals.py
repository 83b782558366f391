"""Signals that arrive inside a library's wait, which replaces the handler's exception as Ray's does."""

from __future__ import annotations

import os
import signal

import pytest

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
