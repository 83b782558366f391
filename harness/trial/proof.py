"""Checks before a study's first trial: networks read from files have a plausible accuracy, and students train, export
and compute the same after export.

A network that was trained on differently normalized samples still loads; only its accuracy shows the mistake. Skill is
its accuracy on a scale from 0 (chance) to 1 (no error):

    skill = max((accuracy - c) / (1 - c), (recall - 1/C) / (1 - 1/C))

accuracy  share of validation samples that are classified correctly
c         share of the most frequent class
recall    mean over the C classes of the share of its samples that are classified correctly
Bound: skill <= 1. A network that ignores its input has recall 1/C and skill <= 0. A network below LEAST_SKILL (half
way) is refused.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from harness.errors import SpaceError, TrialError, without_colors
from harness.methods import nearest
from harness.models.build import build_model
from harness.normalize import Normalization, Normalize
from harness.recipe import Model, Recipe, Selected, parse_recipe
from harness.registries import REGISTRIES
from harness.tasks.data import Data, metric_names, normalized_by
from harness.train.fit import Trained, advance, finish
from harness.train.lanes import Examples
from harness.train.predict import normalized, predict
from harness.train.quantization_points import left_alone
from harness.train.schedule import begin
from harness.trial.job import Proven
from harness.trial.outcome import FILES, ship
from harness.trial.score import data_of, normalized_part, parity

LEAST_SKILL = 0.5  # half way from chance to no error
# A student fails only if it exceeds both limits. After one step of training, a value may lie at the edge of a rounding
# step, where float error changes the rounded value and with it the logits.
MAX_RELATIVE = 0.05  # largest difference of logits, as a share of the largest logit
MAX_DISAGREEING = 0.02  # share of samples whose predicted class may differ


@dataclass(frozen=True)
class Skill:
    """Scores of a network on the ``n`` samples of the validation part; see the module's docstring.

    ``chance`` is the accuracy of always predicting the most frequent class, ``even`` the recall of that (1/C).
    """

    accuracy: float
    chance: float
    recall: float
    even: float
    skill: float
    n: int

    @property
    def weak(self) -> bool:
        return self.skill < LEAST_SKILL


def skill_of(logits: np.ndarray, labels: np.ndarray, classes: int) -> Skill:
    """The skill of logits (N, C). A sample with a non-finite logit counts as wrong."""
    right = (logits.argmax(1) == labels) & np.isfinite(logits).all(1)
    chance = float(np.bincount(labels).max() / len(labels))
    recall = float(np.mean([right[labels == c].mean() for c in range(classes) if (labels == c).any()]))
    accuracy, even = float(right.mean()), 1 / classes
    ways = [(recall - even) / (1 - even), *([(accuracy - chance) / (1 - chance)] if chance < 1 else [])]
    return Skill(accuracy, chance, recall, even, max(ways), len(labels))


def measured(module: nn.Module, data: Data) -> Skill:
    """The skill of a network on the validation part, normalized as in ``data``."""
    x, y = data.validation
    return skill_of(predict(module, normalized(x, data)), y.numpy(), data.classes)


def examine(trees: Sequence[Mapping[str, Any]], wanted: Mapping[str, str], allow_weak: bool) -> list[dict[str, Any]]:
    """Check the data, and every network that a study reads from a file.

    Args:
        trees: recipes that together name every such network; at least one.
        wanted: metrics that the task must return: place in the space -> name.
        allow_weak: accept networks with a skill below LEAST_SKILL.
    Returns:
        See :func:`loaded`.
    Raises:
        SpaceError: the data cannot be used or lack a wanted metric, or a network cannot be read or is weak.
    """
    networks: dict[str, dict[str, Any]] = {}
    recipes = [parse_recipe(tree, REGISTRIES) for tree in trees]
    _check_metrics(data_of(recipes[0]), recipes[0].task.name, wanted)
    for recipe in recipes:
        if recipe.student.checkpoint or (recipe.teacher and recipe.teacher.model.checkpoint):
            networks |= {f"{network['where']} {network['file']}": network for network in loaded(recipe, allow_weak)}
    return list(networks.values())


def _check_metrics(data: Data, task: str, wanted: Mapping[str, str]) -> None:
    known = ["accuracy", *metric_names(data, task)]
    for path, name in wanted.items():
        if name not in known:
            raise SpaceError(path, f"must be a metric that task {task!r} returns", name, nearest(name, known))


def prove(trees: Sequence[Mapping[str, Any]], device: str = "cpu") -> Proven:
    """Test that the students of these recipes train for a step, export, and compute the same after export.

    Raises:
        SpaceError: a student cannot; names the first mistake.
    """
    proofs = [prove_student(parse_recipe(tree, REGISTRIES), device) for tree in trees]
    return Proven(
        {path: kind for proof in proofs for path, kind in proof.left_alone.items()},
        list(dict.fromkeys(layer for proof in proofs for layer in proof.whole)),
        list(dict.fromkeys(name for proof in proofs for name in proof.frozen)),
    )


def loaded(recipe: Recipe, allow_weak: bool) -> list[dict[str, Any]]:
    """The networks that the recipe reads from files, one mapping each.

    Keys: ``where`` (student or teacher), ``file``, the fields of :class:`Skill`, ``weak``, and ``better``: another
    normalization with which the accuracy is clearly higher (empty if there is none).

    Raises:
        SpaceError: a network is weak and ``allow_weak`` is False; names its accuracy with other normalizations.
    """
    models: dict[str, tuple[Model, int]] = {}
    if recipe.student.checkpoint is not None:
        models["student"] = (recipe.student, recipe.seed)
    teacher = recipe.teacher
    if teacher is not None and teacher.model.checkpoint is not None and teacher.model != recipe.student:
        models["teacher"] = (teacher.model, teacher.seed)
    networks, data = [], data_of(recipe)
    for where, (model, seed) in models.items():
        module = build_model(model, data.input_shape, data.classes, seed, where)
        skill = measured(module, data)
        if skill.weak and not allow_weak:
            raise _refusal(f"{where}.checkpoint", str(model.checkpoint), module, data, skill)
        details = {"weak": skill.weak, "better": _better(module, data, skill), **asdict(skill)}
        networks.append({"where": where, "file": str(model.checkpoint), **details})
    return networks


def _refusal(path: str, file: str, module: nn.Module, data: Data, skill: Skill) -> SpaceError:
    least, least_recall = (chance + LEAST_SKILL * (1 - chance) for chance in (skill.chance, skill.even))
    rule = (
        f"the network in {file} must classify at least {least:.1%} of the {skill.n} validation samples, or "
        f"{least_recall:.1%} as the mean over the classes (half way from chance, {skill.chance:.1%} or "
        f"{skill.even:.1%}, to all)"
    )
    remedy = (
        "Probably it was trained on samples with another normalization: here they are normalized with the training "
        f"part's mean {_short(data.mean)} and standard deviation {_short(data.std)}. {_otherwise(module, data)} If the "
        "accuracy is right, allow it with `search.allow_weak: true`."
    )
    return SpaceError(path, rule, f"{skill.accuracy:.1%} and {skill.recall:.1%}", remedy)


def _short(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:.4g}" for v in values[:4]) + (", ..." if len(values) > 4 else "")


def _usual(module: nn.Module, data: Data) -> dict[str, Skill]:
    """The network's skill with the two usual other normalizations: raw samples, and division by the largest value."""
    top = float(data.train[0].max())
    ways: dict[str, Normalization] = {"none": "none"}
    if top > 0:
        ways[f"{{mean: 0, std: {top:g}}}"] = Normalize(mean=(0.0,), std=(top,))
    return {text: measured(module, normalized_by(data, way, "")) for text, way in ways.items()}


def _better(module: nn.Module, data: Data, skill: Skill) -> str:
    """The other normalization with which accuracy is higher by over three standard errors, as text; else empty."""
    scores = _usual(module, data)
    best = max(scores, key=lambda text: scores[text].accuracy)
    error = math.sqrt(skill.accuracy * (1 - skill.accuracy) / skill.n)
    gain = scores[best].accuracy - skill.accuracy
    return f"{scores[best].accuracy:.2%} with `task.normalize: {best}`" if gain > 3 * error else ""


def _otherwise(module: nn.Module, data: Data) -> str:
    """A text with the network's accuracy under the two usual other normalizations, and with what to write."""
    scores = _usual(module, data)
    accuracies = ", ".join(f"with `task.normalize: {text}` {skill.accuracy:.1%}" for text, skill in scores.items())
    best = max(scores, key=lambda text: scores[text].skill)
    if not scores[best].weak:
        return f"It classifies {accuracies}: write `normalize: {best}` under `task:`."
    return (
        f"It classifies {accuracies}: write the numbers of its training as `task.normalize: {{mean: ..., std: ...}}`."
    )


def prove_student(recipe: Recipe, device: str) -> Proven:
    """Train the recipe's student for one step, export it to a temporary folder and compare the file with it.

    Raises:
        SpaceError: the first of these that fails.
    """
    name, data = recipe.student.name, data_of(recipe)
    step = replace(recipe.train, epochs=1)
    alone = replace(recipe, train=step, teacher=None, distill=Selected(name="none"))
    module = build_model(recipe.student, data.input_shape, data.classes, recipe.seed)
    proven = Proven(left_alone(module), frozen=[name for name, p in module.named_parameters() if not p.requires_grad])
    doing = "be trained for a step"
    try:
        x, y = normalized_part(alone, "train", device)
        n = min(len(y), step.batch_size)
        [run] = advance([begin(alone, module.to(device), Examples(x[:n], y[:n]))], 1)
        if isinstance(run, TrialError):  # caused by numbers such as the learning rate, which differ between trials
            return proven
        trained = finish(run)
        doing = "be exported to ONNX"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILES[recipe.deploy.format]
            ship(trained, alone, path)
            doing = f"be computed by {recipe.deploy.runtime}"
            agreement = parity(trained, path, data, recipe.deploy.runtime)
    except SpaceError:
        raise
    except (Exception, SystemExit) as error:  # torch, its exporter and the runtimes raise errors of many types
        raise cannot("student.model", name, doing, error) from error
    _check_same(name, agreement)
    return replace(proven, whole=_whole(trained))


def cannot(path: str, name: str, doing: str, error: BaseException) -> SpaceError:
    """The SpaceError for a network ``name`` that cannot do what ``doing`` says, because of ``error``."""
    cause = _cause(error)
    remedy = _ASSIGNED if "Proxy(" in cause else _REMEDY
    return SpaceError(path, f"{name!r} must {doing}: {cause}", remedy=remedy)


_ASSIGNED = (
    "Does its forward pass assign a tensor to the module (self.mean = ...)? Write into a buffer instead "
    "(self.mean.copy_(...))."
)
_REMEDY = (
    "A fixed graph of ONNX operators must compute it: no branches on values, no randomness, no operators of your own."
)


def _check_same(name: str, agreement: Mapping[str, float]) -> None:
    if agreement["relative"] <= MAX_RELATIVE or agreement["disagreements"] <= MAX_DISAGREEING * agreement["n"]:
        return
    rule = (
        f"the file of {name!r} must compute the same as torch: logits may differ by {MAX_RELATIVE:.0%} of the largest"
    )
    raise SpaceError("student.model", rule, f"{agreement['relative']:.1%}", _REMEDY)


def _cause(error: BaseException) -> str:
    """The innermost error in one line."""
    while (error.__cause__ or error.__context__) is not None:
        error = error.__cause__ or error.__context__ or error
    lines = [line.strip() for line in without_colors(str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}".rstrip(": .?")


def _whole(trained: Trained) -> list[str]:
    """Layers that kept all their channels. The last layer is left out, because its channels are the classes."""
    kept = trained.diagnostics["channels_kept"]
    return [layer for layer in list(kept)[:-1] if kept[layer][0] == kept[layer][1]]
