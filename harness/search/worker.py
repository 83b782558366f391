"""The Ray actor: one process that runs trial after trial. It imports torch and the trial module once."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

import psutil

from harness.errors import DeviceError, HarnessError, disk_error, is_device_error, reason_of
from harness.search.cluster import tell_driver
from harness.trial.announce import announce_to

ON_DEVICE = ("prepare", "run", "start", "go_on", "untrained")


class Worker:
    """Calls the functions of a trial module. The user's modules are imported from ``folder``."""

    def __init__(self, module: str, folder: str, device: str):
        os.chdir(folder)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        self._module, self._device = module, device
        announce_to(tell_driver)

    def call(self, name: str, *args: Any) -> tuple[Any, int]:
        """Call function ``name`` of the trial module. Return its result and the process's resident memory in bytes.

        Functions in :data:`ON_DEVICE` get the device as their last argument.

        Raises:
            HarnessError: the function raised any error, including SystemExit and KeyboardInterrupt.
        """
        try:
            function = getattr(importlib.import_module(self._module), name)
            value = function(*args, *([self._device] if name in ON_DEVICE else []))
        except BaseException as error:
            raise _contained(error) from None
        return value, psutil.Process().memory_info().rss

    def load(self) -> None:
        """Import the module before the first call needs it."""
        importlib.import_module(self._module)

    def process(self) -> tuple[int, float]:
        """Process id and creation time of this process, which identify it."""
        return os.getpid(), psutil.Process().create_time()


def _contained(error: BaseException) -> HarnessError:
    """Convert ``error`` to a type that the driver knows, with a text of limited length. The traceback goes to the
    worker's log."""
    if is_device_error(error):
        return DeviceError(reason_of(error))
    if isinstance(error, HarnessError):
        return error
    traceback.print_exception(error)
    return disk_error(error) or HarnessError(reason_of(error))
