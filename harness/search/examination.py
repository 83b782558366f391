"""Examine the data, code and networks of a space in a separate process.

The driver imports no torch, and a mistake in the data should be reported before Ray starts. The process first loads
the data and the networks that are read from files; the driver waits for that. While Ray starts, it tests that the
students train, export, and compute the same outputs after export.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

from harness.errors import HarnessError, disk_error, reason_of
from harness.trial.job import Proven

STAGES = ("examine", "fingerprint", "prove")  # functions of the trial module that every search calls, in order
ALONE = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Examination:
    """Context manager around the process, which is killed on exit.

    Args:
        module: the trial module, which has these functions.
        arguments: of each function, by its name; the functions are called in this order (:data:`STAGES`, and what a
            plan adds).
    """

    def __init__(self, module: str, arguments: Mapping[str, Sequence[Any]]):
        self._answers, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,  # to stderr, because the user's code may print
            env=os.environ | ALONE,
        )
        theirs.close()
        self._answers.send((module, list(arguments.items())))

    def answer(self) -> Any:
        """The result of the next stage.

        Raises:
            HarnessError: the stage raised it, or the process ended without an answer.
        """
        try:
            result = self._answers.recv()
        except (EOFError, ConnectionResetError):
            code = self._process.wait()
            raise HarnessError(
                f"the process that looks at data and networks ended without an answer (exit code {code})"
            ) from None
        if isinstance(result, BaseException):
            raise result
        return result

    def __enter__(self) -> Examination:
        return self

    def __exit__(self, *_: Any) -> None:
        self._answers.close()
        self._process.kill()
        self._process.wait()


def say_loaded(networks: Sequence[Mapping[str, Any]], say: Callable[[str], None]) -> None:
    """Print the accuracy of each network that was read from a file."""
    for network in networks:
        say(
            f"{network['where']} {network['file']}: accuracy {network['accuracy']:.2%} on validation "
            f"(n = {network['n']}, chance {network['chance']:.2%}){', WEAK' if network['weak'] else ''}"
            + (f"; it would be {network['better']}" if network["better"] else "")
        )


def say_proven(proven: Proven, say: Callable[[str], None]) -> None:
    """Print which parts of the students are neither pruned nor quantized, and which frozen parts are trained."""
    if proven.left_alone:
        modules = ", ".join(f"{path} ({kind})" for path, kind in proven.left_alone.items())
        say(f"exported as they are, neither pruned nor rounded: {modules}")
    if proven.whole:
        say(f"no channels can be removed from: {', '.join(proven.whole)}")
    if proven.frozen:
        say(f"trained like all others, though they have requires_grad=False: {', '.join(proven.frozen)}")


def _look(answers: Connection) -> None:
    """Run the stages and send each result. The first error is sent and ends the run."""
    module, stages = answers.recv()
    try:
        functions = importlib.import_module(module)
        for name, arguments in stages:
            answers.send(getattr(functions, name)(*arguments))
    except BaseException as error:  # the user's code may raise anything, including SystemExit
        answers.send(_sendable(error))


def _sendable(error: BaseException) -> Exception:
    if isinstance(error, HarnessError):
        return error
    if (disk_failure := disk_error(error)) is not None:
        return disk_failure
    traceback.print_exception(error)
    return HarnessError(f"looking at data and networks failed ({reason_of(error)})")


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    _look(Connection(int(sys.argv[1])))
