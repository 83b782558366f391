"""Stages of an examination that take as long as they are told."""

import os
import time

from harness.errors import SpaceError


def examine(seconds):
    time.sleep(seconds)
    return os.getppid()


def fingerprint():
    return {}


def prove(word):
    raise SpaceError("task.name", "must be yes", word)
