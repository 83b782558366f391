"""Ctrl-C and SIGTERM: once drains (running trials finish and are told), twice stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


class Stop:
    """Context manager. ``asked``: start nothing new; ``now``: wait for nothing either. ``draining`` is called
    when the first is asked for."""

    def __init__(self, draining: Callable[[], None] = lambda: None) -> None:
        self._draining = draining
        self.asked, self.now, self.exit_code = False, False, 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.now = self.asked
        if not self.asked:
            self._draining()
        self.asked, self.exit_code = True, 128 + number
