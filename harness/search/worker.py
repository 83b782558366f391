"""What runs in a Ray actor: one process that serves trial after trial. It imports the torch side once."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

import psutil

from harness.errors import DeviceError, HarnessError, disk_error, is_device_error, reason_of

ON_DEVICE = ("prepare", "run", "start", "go_on", "untrained")


class Worker:
    """Calls the functions of a trial module, the user's own modules being found from ``folder``."""

    def __init__(self, module: str, folder: str, device: str):
        os.chdir(folder)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        self._module, self._device = module, device

    def call(self, name: str, *args: Any) -> tuple[Any, int]:
        """``name`` of the trial module, called with the device as last argument where it takes one; and the
        resident memory of this process afterwards, in bytes.

        Raises:
            HarnessError: for whatever a user's code raises, SystemExit and KeyboardInterrupt too.
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
        """This process: its number and when it began, which no other process shares."""
        return os.getpid(), psutil.Process().create_time()


def _contained(error: BaseException) -> HarnessError:
    """``error`` as one that the driver knows, with a text of stated length; the log of the worker has it whole."""
    if is_device_error(error):
        return DeviceError(reason_of(error))
    if isinstance(error, HarnessError):
        return error
    traceback.print_exception(error)
    return disk_error(error) or HarnessError(reason_of(error))
