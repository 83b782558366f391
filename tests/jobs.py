"""Jobs for the trial module from plain trees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.recipe import parse_recipe
from harness.registries import REGISTRIES
from harness.trial.job import TrialJob


def job(tree: Mapping[str, Any], folder: Path, number: int = 0, **more: Any) -> TrialJob:
    return TrialJob(parse_recipe(tree, REGISTRIES), number, folder, **more)
