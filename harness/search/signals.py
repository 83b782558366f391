"""Handle Ctrl-C and SIGTERM. During preparation a signal ends the search. Later the first signal drains it (running
trials finish and are told), and the second stops it at once."""

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
    """A signal ended a wait. ``exit_code`` is 128 + signal number, as in a shell."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Stop:
    """Context manager that counts signals. Until :meth:`drain` is called, a signal raises :class:`Interrupted`.

    asked     start nothing new
    now       also wait for nothing
    draining  called when the first signal is noticed after :meth:`drain`

    Signals are read from the wakeup pipe that Python's C handler writes to. Python's own handlers run only between
    bytecodes, so two signals during a long C call would count as one.
    """

    def __init__(self, draining: Callable[[], None] = lambda: None) -> None:
        self._draining = draining
        self._seen: list[int] = []
        self._raises_at: float = 1  # number of signals at which Interrupted is raised
        self._raised: int | None = None  # the signal for which it was raised
        self._pipe, self._ended = os.pipe()
        self._before: dict[int, object] = {}
        os.set_blocking(self._pipe, False)
        os.set_blocking(self._ended, False)

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._woken = signal.set_wakeup_fd(self._ended, warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, self._caught) for number in CAUGHT}
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        if self._before:
            signal.set_wakeup_fd(self._woken)
        self._look()
        os.close(self._ended)
        self._name(error)

    def reinstall(self) -> None:
        """Install the handlers again, because Ray replaces that of SIGTERM when it starts."""
        for number in self._before:
            signal.signal(number, self._caught)

    def drain(self) -> None:
        """From now on count signals without raising."""
        self._raises_at = math.inf
        self._look()

    @contextlib.contextmanager
    def twice_ends(self) -> Iterator[None]:
        """Within this context the second signal raises. For waits on work that cannot be asked to stop."""
        before, self._raises_at = self._raises_at, 2
        try:
            yield
        except KeyboardInterrupt as error:
            self._name(error)
            raise
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
        """0, or 128 + the number of the last signal, as in a shell."""
        self._look()
        return 128 + self._seen[-1] if self._seen else 0

    def _look(self) -> None:
        before = len(self._seen)
        try:
            self._seen += [number for number in os.read(self._pipe, 4096) if number in CAUGHT]
        except BlockingIOError:  # no new signal
            return
        if self._seen and not before and self._raises_at > 1:
            self._draining()

    def _name(self, error: BaseException | None) -> None:
        """Raise :class:`Interrupted` in place of a plain KeyboardInterrupt that stands for it.

        If a handler raises while Ray waits, Ray drops that exception and raises a KeyboardInterrupt of its own.
        """
        plain = isinstance(error, KeyboardInterrupt) and not isinstance(error, Interrupted)
        if plain and self._raised is not None:
            raise Interrupted(self._raised) from None

    def _caught(self, number: int, frame: FrameType | None) -> None:
        """The Python handler. It replaces the signal's default action and raises if enough signals have arrived."""
        if self._raises_at == math.inf:
            return
        self._look()
        if len(self._seen) >= self._raises_at:
            self._raises_at, self._raised = math.inf, number  # later signals must not interrupt the cleanup
            raise Interrupted(number)
