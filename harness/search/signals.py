"""Ctrl-C and SIGTERM: once drains (running trials finish and are told), twice stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

CAUGHT = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Context manager. ``asked``: start nothing new; ``now``: wait for nothing either. ``draining`` is called
    when the first signal is noticed.

    Signals are counted where the system delivers them (a pipe that Python's own handler writes to): in a long
    call outside of Python two of them would be one.
    """

    def __init__(self, draining: Callable[[], None] = lambda: None) -> None:
        self._draining = draining
        self._seen: list[int] = []
        self._pipe, self._ended = os.pipe()
        self._before: dict[int, object] = {}
        os.set_blocking(self._pipe, False)
        os.set_blocking(self._ended, False)

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._woken = signal.set_wakeup_fd(self._ended, warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, _caught) for number in CAUGHT}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        if self._before:
            signal.set_wakeup_fd(self._woken)
        self._look()
        os.close(self._ended)

    @property
    def asked(self) -> bool:
        self._look()
        return bool(self._seen)

    @property
    def now(self) -> bool:
        self._look()
        return len(self._seen) > 1

    @property
    def exit_code(self) -> int:
        """0, or what a shell gives a process that the last signal ended."""
        self._look()
        return 128 + self._seen[-1] if self._seen else 0

    def _look(self) -> None:
        before = len(self._seen)
        try:
            self._seen += [number for number in os.read(self._pipe, 4096) if number in CAUGHT]
        except BlockingIOError:  # none since
            return
        if self._seen and not before:
            self._draining()


def _caught(number: int, frame: FrameType | None) -> None:
    """Keeps the signal's usual effect away."""
