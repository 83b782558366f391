"""The teacher: trained once per content (its recipe and the data), cached on the disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from harness.models.build import build_model
from harness.recipe import Recipe, Selected, Teacher
from harness.registries import REGISTRIES
from harness.tasks.data import Data
from harness.tasks.folders import cache_folder
from harness.train.fit import Examples, fit
from harness.train.predict import normalised, predict


def teacher_key(teacher: Teacher, fingerprint: str) -> str:
    """Content key: equal for the same teacher recipe on the same data."""
    text = json.dumps({"teacher": teacher.model_dump(), "data": fingerprint}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def teacher_module(recipe: Recipe, data: Data, device: str) -> nn.Module:
    """The recipe's teacher on the CPU, in eval mode: its checkpoint, the cached one, or trained now."""
    teacher = recipe.teacher
    if teacher is None:
        raise ValueError("the recipe has no teacher")
    module = build_model(teacher.model, data.input_shape, data.classes, teacher.seed, where="teacher")
    if teacher.model.checkpoint is not None:
        return module.eval()
    path = cache_folder() / "teachers" / f"{teacher_key(teacher, data.fingerprint())}.safetensors"
    if path.exists():
        module.load_state_dict(load_file(path))
        return module.eval()
    x, y = data.train
    plain = Recipe(
        task=recipe.task,
        teacher=None,
        student=teacher.model,
        train=teacher.train,
        clip=Selected(name="none"),
        prune=Selected(name="none"),
        quant=Selected(name="uniform", options={"bits": 32, "start": 0.5}),
        distill=Selected(name="none"),
        deploy=recipe.deploy,
        seed=teacher.seed,
    )
    trained = fit(plain, module.to(device), Examples(normalised(x, data).to(device), y.to(device))).module
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({k: v.contiguous() for k, v in trained.state_dict().items()}, partial)
    os.replace(partial, path)
    return trained


_LOGITS: dict[tuple[str, str], torch.Tensor] = {}


def logits_of(recipe: Recipe, data: Data, given: Mapping[str, np.ndarray], device: str) -> torch.Tensor | None:
    """The teacher's logits (N, C) over the training part, one tensor per process and teacher: those
    ``given`` (by content key), else computed here. None where the recipe asks for none."""
    if recipe.teacher is None or not REGISTRIES.distills[recipe.distill.name].needs:
        return None
    key = teacher_key(recipe.teacher, data.fingerprint())
    if (key, device) not in _LOGITS:
        if key in given:
            logits = np.array(given[key])
        else:
            logits = predict(teacher_module(recipe, data, device).to(device), normalised(data.train[0], data))
        _LOGITS.clear()  # one teacher at a time: data sets can be large
        _LOGITS[key, device] = torch.from_numpy(logits).to(device)
    return _LOGITS[key, device]
