"""What a long step in a worker says while it runs. The worker sets where it goes; elsewhere it goes nowhere."""

from __future__ import annotations

from collections.abc import Callable

_LISTENERS: list[Callable[[str], None]] = []


def announce(text: str) -> None:
    """Say how far a step is, in one line. An earlier line that nobody has read yet is replaced."""
    for listener in _LISTENERS:
        listener(text)


def announce_to(listener: Callable[[str], None]) -> None:
    """Send what is announced in this process to ``listener``."""
    _LISTENERS[:] = [listener]
