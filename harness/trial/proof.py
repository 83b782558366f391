"""What is found out before a study's first trial: that the networks it is given are read rightly, and that its
students train, export and compute the same.

A network that was trained on other numbers than it is given here (samples normalized in another way, say) still
loads; only its accuracy tells. Skill is the share of the way from chance to no error that it has come:

    skill = max((accuracy - c) / (1 - c), (recall - 1/C) / (1 - 1/C))

accuracy  share of the validation samples that are classified rightly; c: share of the most frequent class
recall    mean over the C classes of the share found of each; a network that ignores its input has 1/C
Bound: skill <= 1, and skill <= 0 where the input is ignored. Below LEAST_SKILL (half way) a network is refused.
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

LEAST_SKILL = 0.5
MAX_RELATIVE = 0.05  # of the largest logit: rounding on the edge of a step, in a student of one step
MAX_DISAGREEING = 0.02


@dataclass(frozen=True)
class Skill:
    """What a network scores on the validation part: ``accuracy`` and ``chance`` are shares of its ``n`` samples,
    ``recall`` and ``even`` (1/C) means over the classes."""

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
    """See the module's docstring. A logit that is not finite is an error."""
    right = (logits.argmax(1) == labels) & np.isfinite(logits).all(1)
    chance = float(np.bincount(labels).max() / len(labels))
    recall = float(np.mean([right[labels == c].mean() for c in range(classes) if (labels == c).any()]))
    accuracy, even = float(right.mean()), 1 / classes
    ways = [(recall - even) / (1 - even), *([(accuracy - chance) / (1 - chance)] if chance < 1 else [])]
    return Skill(accuracy, chance, recall, even, max(ways), len(labels))


def measured(module: nn.Module, data: Data) -> Skill:
    """The skill of a network on the validation part, normalized as ``data`` says."""
    x, y = data.validation
    return skill_of(predict(module, normalized(x, data)), y.numpy(), data.classes)


def examine(trees: Sequence[Mapping[str, Any]], wanted: Mapping[str, str], allow_weak: bool) -> list[dict[str, Any]]:
    """Look at the data, and at every network that a study reads from a file.

    Args:
        trees: recipes that between them name every such network; at least one.
        wanted: metrics that the task must return; where the space asks for it -> its name.
        allow_weak: go on where a network that was read is near chance.
    Returns:
        See :func:`loaded`.
    Raises:
        SpaceError: the data cannot be used, lack a wanted metric, or a network cannot be read or is weak.
    """
    found: dict[str, dict[str, Any]] = {}
    recipes = [parse_recipe(tree, REGISTRIES) for tree in trees]
    _check_metrics(data_of(recipes[0]), recipes[0].task.name, wanted)
    for recipe in recipes:
        if recipe.student.checkpoint or (recipe.teacher and recipe.teacher.model.checkpoint):
            found |= {f"{seen['where']} {seen['file']}": seen for seen in loaded(recipe, allow_weak)}
    return list(found.values())


def _check_metrics(data: Data, task: str, wanted: Mapping[str, str]) -> None:
    known = ["accuracy", *metric_names(data, task)]
    for path, name in wanted.items():
        if name not in known:
            raise SpaceError(path, f"must be a metric that task {task!r} returns", name, nearest(name, known))


def prove(trees: Sequence[Mapping[str, Any]], device: str = "cpu") -> Proven:
    """Prove that the students of these recipes train a step, export and compute the same.

    Raises:
        SpaceError: what the first of them cannot do.
    """
    seen = [prove_student(parse_recipe(tree, REGISTRIES), device) for tree in trees]
    return Proven(
        {path: kind for one in seen for path, kind in one.left_alone.items()},
        list(dict.fromkeys(layer for one in seen for layer in one.whole)),
        list(dict.fromkeys(name for one in seen for name in one.frozen)),
    )


def loaded(recipe: Recipe, allow_weak: bool) -> list[dict[str, Any]]:
    """The networks that the recipe reads from files: ``where`` it names them, ``file``, what they score, and
    another normalization with which they score clearly ``better`` (empty where there is none).

    Raises:
        SpaceError: one of them is weak, which is not allowed; names what it scores on samples normalized otherwise.
    """
    given: dict[str, tuple[Model, int]] = {}
    if recipe.student.checkpoint is not None:
        given["student"] = (recipe.student, recipe.seed)
    teacher = recipe.teacher
    if teacher is not None and teacher.model.checkpoint is not None and teacher.model != recipe.student:
        given["teacher"] = (teacher.model, teacher.seed)
    found, data = [], data_of(recipe)
    for where, (model, seed) in given.items():
        module = build_model(model, data.input_shape, data.classes, seed, where)
        seen = measured(module, data)
        if seen.weak and not allow_weak:
            raise _refusal(f"{where}.checkpoint", str(model.checkpoint), module, data, seen)
        told = {"weak": seen.weak, "better": _better(module, data, seen), **asdict(seen)}
        found.append({"where": where, "file": str(model.checkpoint), **told})
    return found


def _refusal(path: str, file: str, module: nn.Module, data: Data, seen: Skill) -> SpaceError:
    least, least_recall = (chance + LEAST_SKILL * (1 - chance) for chance in (seen.chance, seen.even))
    rule = (
        f"the network in {file} must classify at least {least:.1%} of the {seen.n} validation samples, or "
        f"{least_recall:.1%} as the mean over the classes (half way from chance, {seen.chance:.1%} or {seen.even:.1%}, "
        "to all)"
    )
    remedy = (
        "Probably it was trained on samples normalized otherwise: here they have the training part's mean "
        f"{_short(data.mean)} and deviation {_short(data.std)} taken out. {_otherwise(module, data)} Where the "
        "accuracy is right, go on with `search.allow_weak: true`."
    )
    return SpaceError(path, rule, f"{seen.accuracy:.1%} and {seen.recall:.1%}", remedy)


def _short(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:.4g}" for v in values[:4]) + (", ..." if len(values) > 4 else "")


def _usual(module: nn.Module, data: Data) -> dict[str, Skill]:
    """What the network scores on samples normalized in the two usual other ways."""
    top = float(data.train[0].max())
    ways: dict[str, Normalization] = {"none": "none"}
    if top > 0:
        ways[f"{{mean: 0, std: {top:g}}}"] = Normalize(mean=(0.0,), std=(top,))
    return {text: measured(module, normalized_by(data, way, "")) for text, way in ways.items()}


def _better(module: nn.Module, data: Data, seen: Skill) -> str:
    """The usual normalization with which the network is right more often, by over three standard errors."""
    scores = _usual(module, data)
    best = max(scores, key=lambda text: scores[text].accuracy)
    error = math.sqrt(seen.accuracy * (1 - seen.accuracy) / seen.n)
    gain = scores[best].accuracy - seen.accuracy
    return f"{scores[best].accuracy:.2%} with `task.normalize: {best}`" if gain > 3 * error else ""


def _otherwise(module: nn.Module, data: Data) -> str:
    """What the network scores on samples normalized in the two usual other ways, and what to write."""
    scores = _usual(module, data)
    told = ", ".join(f"with `task.normalize: {text}` {seen.accuracy:.1%}" for text, seen in scores.items())
    best = max(scores, key=lambda text: scores[text].skill)
    if not scores[best].weak:
        return f"It classifies {told}: write `normalize: {best}` under `task:`."
    return f"It classifies {told}: write the numbers of its training as `task.normalize: {{mean: ..., std: ...}}`."


def prove_student(recipe: Recipe, device: str) -> Proven:
    """Train the recipe's student for one step, export it and compare the file with it, all in a temporary folder.

    Raises:
        SpaceError: one message, of the first thing that cannot be done.
    """
    name, data = recipe.student.name, data_of(recipe)
    step = replace(recipe.train, epochs=1)
    alone = replace(recipe, train=step, teacher=None, distill=Selected(name="none"))
    module = build_model(recipe.student, data.input_shape, data.classes, recipe.seed)
    found = Proven(left_alone(module), frozen=[name for name, p in module.named_parameters() if not p.requires_grad])
    doing = "be trained for a step"
    try:
        x, y = normalized_part(alone, "train", device)
        n = min(len(y), step.batch_size)
        [run] = advance([begin(alone, module.to(device), Examples(x[:n], y[:n]))], 1)
        if isinstance(run, TrialError):  # of its numbers (the learning rate), which a trial may choose otherwise
            return found
        trained = finish(run)
        doing = "be exported to ONNX"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILES[recipe.deploy.format]
            ship(trained, alone, path)
            doing = f"be computed by {recipe.deploy.runtime}"
            seen = parity(trained, path, data, recipe.deploy.runtime)
    except SpaceError:
        raise
    except (Exception, SystemExit) as error:  # torch, its exporter and the runtimes raise many kinds
        raise cannot("student.model", name, doing, error) from error
    _check_same(name, seen)
    return replace(found, whole=_whole(trained))


def cannot(path: str, name: str, doing: str, error: BaseException) -> SpaceError:
    """The one message where ``doing`` something with a network ended in ``error``."""
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


def _check_same(name: str, seen: Mapping[str, float]) -> None:
    if seen["relative"] <= MAX_RELATIVE or seen["disagreements"] <= MAX_DISAGREEING * seen["n"]:
        return
    rule = (
        f"the file of {name!r} must compute what torch does: its logits may be {MAX_RELATIVE:.0%} off, of the largest"
    )
    raise SpaceError("student.model", rule, f"{seen['relative']:.1%}", _REMEDY)


def _cause(error: BaseException) -> str:
    """The innermost error in one line."""
    while (error.__cause__ or error.__context__) is not None:
        error = error.__cause__ or error.__context__ or error
    lines = [line.strip() for line in without_colors(str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}".rstrip(": .?")


def _whole(trained: Trained) -> list[str]:
    """Layers that kept all their channels, but for the last one, whose channels are the classes."""
    kept = trained.diagnostics["channels_kept"]
    return [layer for layer in list(kept)[:-1] if kept[layer][0] == kept[layer][1]]
