"""How long an epoch takes on this machine, measured on a few batches. A plan of a search is estimated from it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.models.build import build_model
from harness.recipe import Recipe, Selected, parse_recipe
from harness.registries import REGISTRIES
from harness.train.fit import advance
from harness.train.lanes import Examples
from harness.train.schedule import begin
from harness.train.teacher import teacher_file, teacher_recipe
from harness.trial.job import Pace
from harness.trial.score import data_of, normalized_part

FIRST_BATCHES = 2  # the first pass is warm-up, the second tells how many batches fit into ENOUGH_S
ENOUGH_S = 1.0  # of training that is timed


def pace(student: Mapping[str, Any], teachers: Sequence[Mapping[str, Any]], device: str = "cpu") -> Pace:
    """Time the training of a student and of the teachers.

    Args:
        student: recipe of the widest student.
        teachers: recipes that together name every teacher of the space.
    """
    widest = replace(parse_recipe(student, REGISTRIES), teacher=None, distill=Selected(name="none"))
    seconds, seen = 0.0, set[str]()
    for recipe in (parse_recipe(tree, REGISTRIES) for tree in teachers):
        teacher = recipe.teacher
        if teacher is None or teacher.model.checkpoint is not None:
            continue
        file = teacher_file(teacher, data_of(recipe))
        if file.name not in seen and not file.exists():
            seconds += teacher.train.epochs * epoch_s(teacher_recipe(recipe, teacher), device)
        seen.add(file.name)
    return Pace(epoch_s(widest, device), seconds)


def epoch_s(recipe: Recipe, device: str) -> float:
    """Seconds that one epoch of this recipe's student takes, extrapolated from some of its batches."""
    samples = len(data_of(recipe).train[1])
    few = min(samples, FIRST_BATCHES * recipe.train.batch_size)
    _timed(recipe, few, device)
    first = _timed(recipe, few, device)
    many = min(samples, max(few, int(few * ENOUGH_S / first) // recipe.train.batch_size * recipe.train.batch_size))
    return _timed(recipe, many, device) * samples / many


def _timed(recipe: Recipe, samples: int, device: str) -> float:
    """Seconds of one epoch on the first ``samples`` training samples."""
    data = data_of(recipe)
    x, y = normalized_part(recipe, "train", device)
    module = build_model(recipe.student, data.input_shape, data.classes, recipe.seed)
    recipe = replace(recipe, train=replace(recipe.train, epochs=1))
    run = begin(recipe, module.to(device), Examples(x[:samples], y[:samples]))
    started = time.perf_counter()
    advance([run], 1)
    return time.perf_counter() - started
