"""The teacher: trained once per recipe and data, and cached on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from harness.files.checksums import read_cached, write_cached
from harness.files.folders import cache_folder
from harness.methods import FLOAT_BITS, Method
from harness.models.build import build_model
from harness.recipe import Recipe, Selected, Teacher
from harness.registries import REGISTRIES
from harness.tasks.data import Data
from harness.train.features import PER_SAMPLE, quantity
from harness.train.fit import fit
from harness.train.forward import Tensors
from harness.train.lanes import Examples
from harness.train.predict import normalized


def teacher_key(teacher: Teacher, fingerprint: str) -> str:
    """Cache key of a teacher, computed from its recipe and the data's fingerprint."""
    text = json.dumps({"teacher": asdict(teacher), "data": fingerprint}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def teacher_file(teacher: Teacher, data: Data) -> Path:
    """Where the trained teacher is cached."""
    return cache_folder() / "teachers" / f"{teacher_key(teacher, data.fingerprint())}.cached"


def teacher_module(
    recipe: Recipe, data: Data, device: str, on_epoch: Callable[[int], None] = lambda epoch: None
) -> nn.Module:
    """The recipe's teacher on the CPU, in eval mode: from its checkpoint, from the cache, or trained now (then
    ``on_epoch`` is called after each epoch)."""
    teacher = recipe.teacher
    if teacher is None:
        raise ValueError("the recipe has no teacher")
    module = build_model(teacher.model, data.input_shape, data.classes, teacher.seed, where="teacher")
    if teacher.model.checkpoint is not None:
        return module.eval()
    path = teacher_file(teacher, data)
    cached = read_cached(path)
    if cached is not None:
        module.load_state_dict(load(cached))
        return module.eval()
    x, y = data.train
    examples = Examples(normalized(x, data).to(device), y.to(device))
    trained = fit(teacher_recipe(recipe, teacher), module.to(device), examples, on_epoch).module
    write_cached(path, save({k: v.contiguous() for k, v in trained.state_dict().items()}))
    return trained


def teacher_recipe(recipe: Recipe, teacher: Teacher) -> Recipe:
    """The recipe by which ``recipe``'s teacher is trained: its network as an uncompressed student."""
    return Recipe(
        task=recipe.task,
        teacher=None,
        student=teacher.model,
        train=teacher.train,
        clip=teacher.clip,
        prune=_selected(REGISTRIES.pruners, "none"),
        quant=_selected(REGISTRIES.quantizers, "uniform", bits=FLOAT_BITS),
        distill=Selected(name="none"),
        deploy=recipe.deploy,
        seed=teacher.seed,
    )


def _selected(methods: Mapping[str, Method], name: str, **options: Any) -> Selected:
    """The method ``name`` with ``options`` and defaults for the rest."""
    return Selected(name=name, options={n: p.default for n, p in methods[name].options.items()} | options)


_QUANTITIES: dict[tuple[str, str, str], Tensor] = {}


def quantities_of(recipe: Recipe, data: Data, logits_by_teacher: Mapping[str, np.ndarray], device: str) -> Tensors:
    """The teacher's quantities that the recipe's distillation needs, for the training part: name -> (N, ...).

    See :mod:`harness.train.features`. Each tensor is kept once per process and teacher. Logits are taken from
    ``logits_by_teacher`` (teacher key -> logits); other quantities, and logits that are not there, are computed here.
    """
    needed = [name for name in PER_SAMPLE if name in REGISTRIES.distills[recipe.distill.name].needs]
    if recipe.teacher is None or not needed:
        return {}
    key = teacher_key(recipe.teacher, data.fingerprint())
    for other in [k for k in _QUANTITIES if k[0] != key]:
        del _QUANTITIES[other]  # keep one teacher's tensors only: data sets can be large
    for name in needed:
        if (key, device, name) in _QUANTITIES:
            continue
        if name == "logits" and key in logits_by_teacher:
            values = torch.from_numpy(np.array(logits_by_teacher[key])).to(device)
        else:
            x, y = normalized(data.train[0], data), data.train[1]
            values = quantity(name, teacher_module(recipe, data, device).to(device), x.to(device), y.to(device))
        _QUANTITIES[key, device, name] = values
    return {name: _QUANTITIES[key, device, name] for name in needed}


def parameters_of(recipe: Recipe, data: Data, device: str) -> Tensors:
    """The teacher's parameters by name; empty unless the recipe's distillation needs them."""
    if recipe.teacher is None or "parameters" not in REGISTRIES.distills[recipe.distill.name].needs:
        return {}
    module = teacher_module(recipe, data, device).to(device)
    return {name: p.detach() for name, p in module.named_parameters()}
