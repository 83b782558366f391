"""Ctrl-C and SIGTERM: while preparing they end the search; then once drains (running trials finish and are told),
twice stops at once."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

CAUGHT = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal that ended what was being waited for. ``exit_code``: what a shell gives a process that it ended."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Stop:
    """Context manager. Until :meth:`drain` a signal raises :class:`Interrupted`; then it is only counted.
    ``asked``: start nothing new; ``now``: wait for nothing either. ``draining`` is called when the first signal
    is noticed.

    Signals are counted where the system delivers them (a pipe that Python's own handler writes to): in a long
    call outside of Python two of them would be one.
    """

    def __init__(self, draining: Callable[[], None] = lambda: None) -> None:
        self._draining = draining
        self._seen: list[int] = []
        self._raises_at: float = 1  # how many signals raise
        self._pipe, self._ended = os.pipe()
        self._before: dict[int, object] = {}
        os.set_blocking(self._pipe, False)
        os.set_blocking(self._ended, False)

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._woken = signal.set_wakeup_fd(self._ended, warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, self._caught) for number in CAUGHT}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        if self._before:
            signal.set_wakeup_fd(self._woken)
        self._look()
        os.close(self._ended)

    def take_over(self) -> None:
        """Catch the signals again: Ray, when it starts, takes SIGTERM for itself."""
        for number in self._before:
            signal.signal(number, self._caught)

    def drain(self) -> None:
        """From here on a signal raises nothing."""
        self._raises_at = math.inf
        self._look()

    @contextlib.contextmanager
    def twice_ends(self) -> Iterator[None]:
        """Within, where one waits for what cannot be asked to stop, the second signal raises."""
        before, self._raises_at = self._raises_at, 2
        try:
            yield
        finally:
            self._raises_at = before

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
        if self._seen and not before and self._raises_at > 1:
            self._draining()

    def _caught(self, number: int, frame: FrameType | None) -> None:
        """Keeps the signal's usual effect away."""
        if self._raises_at == math.inf:
            return
        self._look()
        if len(self._seen) >= self._raises_at:
            self._raises_at = math.inf  # what is tidied up then is not disturbed
            raise Interrupted(number)
