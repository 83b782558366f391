"""Building a recipe's model: call the family or the user's function, load a checkpoint, check the output's shape."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.errors import HarnessError, SpaceError
from harness.methods import load_own
from harness.models import MODELS
from harness.models.seeding import seeded
from harness.recipe import Model

_SHOWN = 3  # differences listed in one message
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts save the weights


def build_model(
    model: Model, input_shape: tuple[int, ...], classes: int, seed: int, where: str = "student"
) -> nn.Module:
    """Build ``model`` on the CPU, in training mode.

    Args:
        seed: decides the initial weights (:func:`harness.models.seeding.seeded`).
        where: the recipe's section, ``student`` or ``teacher``, for error messages.
    Raises:
        SpaceError: the user's function, the checkpoint or the output's shape is wrong.
    """
    module = _construct(model, tuple(input_shape), classes, seed, f"{where}.model")
    if model.checkpoint is not None:
        load_checkpoint(module, Path(os.path.expanduser(model.checkpoint)), f"{where}.checkpoint")
    _check_output(module, model.name, tuple(input_shape), classes, f"{where}.model")
    if isinstance(module, nn.Linear):
        module = nn.Sequential(module)  # gives the layer a path, by which layers are named
    return module.train()


def _construct(model: Model, input_shape: tuple[int, ...], classes: int, seed: int, path: str) -> nn.Module:
    family = MODELS.get(model.name)
    function = load_own(model.name, path) if family is None else family.load()
    try:
        with seeded(seed):
            module = function(input_shape, classes, **model.options)
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        called = f"input_shape {input_shape} and {classes} classes"
        what = str(error) if family else f"raised {type(error).__name__} for {called}: {error}"
        raise SpaceError(path, f"{model.name!r} {what}") from error
    if not isinstance(module, nn.Module):
        raise SpaceError(path, f"{model.name!r} must return a torch.nn.Module", type(module).__name__)
    return module.cpu()


@torch.no_grad()
def _check_output(module: nn.Module, name: str, input_shape: tuple[int, ...], classes: int, path: str) -> None:
    module.eval()
    try:
        output = module(torch.zeros(2, *input_shape))
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise SpaceError(
            path,
            f"{name!r} cannot compute a batch of shape (2, {_listed(input_shape)}) ({type(error).__name__}: {error})",
        ) from error
    got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if got != (2, classes):
        raise SpaceError(
            path,
            f"{name!r} must return logits of shape (2, {classes}) for a batch of shape (2, {_listed(input_shape)})",
            got,
        )


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(str(side) for side in shape)


def load_checkpoint(module: nn.Module, file: Path, path: str) -> None:
    """Load a ``.safetensors`` or ``torch.save(state_dict)`` file into ``module``; all names and shapes must match.

    Only tensors are unpickled.

    Raises:
        SpaceError: at ``path``, with the first differences between the file and the module.
    """
    weights = _read(file, path)
    expected = module.state_dict()
    differences = [
        *(f"{key} is missing" for key in expected if key not in weights),
        *(f"{key} is unknown to the model" for key in weights if key not in expected),
        *(
            f"{key} is {tuple(weights[key].shape)} but the model's is {tuple(expected[key].shape)}"
            for key in expected
            if key in weights and weights[key].shape != expected[key].shape
        ),
    ]
    if differences:
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        first = "; ".join(differences[:_SHOWN])
        raise SpaceError(
            path,
            f"the weights in {file} must fit the model: {first}{more}",
            remedy="Give the options that the saved network was built with.",
        )
    for key, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise SpaceError(path, f"the weights in {file} must be finite, {key} is not")
    module.load_state_dict(weights)


def _read(file: Path, path: str) -> dict[str, Tensor]:
    if not file.is_file():
        raise SpaceError(path, "no such file", str(file), f"Paths start from the current folder, {Path.cwd()}.")
    remedy = (
        "Save it with safetensors.torch.save_file(model.state_dict(), file) or torch.save(model.state_dict(), file)."
    )
    try:
        checkpoint: Any = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a file may be anything; the libraries raise many kinds
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise SpaceError(
            path,
            f"{file} cannot be read as weights without running code from it ({type(error).__name__}: {first_line})",
            remedy=remedy,
        ) from error
    for key in _WRAPPERS:
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
    if (
        not isinstance(checkpoint, dict)
        or not checkpoint
        or not all(isinstance(v, Tensor) for v in checkpoint.values())
    ):
        raise SpaceError(path, f"{file} must hold a state_dict, names and tensors", type(checkpoint).__name__, remedy)
    return checkpoint
