"""K students of equal structure, trained side by side (as lanes) in one process.

Changes between epochs (channel removal, masks, rounding) are made on single students. Only the steps of an epoch run on
the stacked state. Lanes are therefore formed again at the start of every epoch: students that stopped or failed are
left out, and students from which different channels were removed no longer share lanes. The fastest form for a
structure is measured once, on its first batch, and cached.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.models.seeding import draws, seeded
from harness.train.forward import Forward, Tensors, mapped, stacked
from harness.train.step import LEARNED, Hparams, Plan, State, step

TIMED_STEPS = 3  # the shortest counts
TOLERANCE = 1e-3  # share of the largest logit by which a form may differ from the module: above float32 rounding


@dataclass(frozen=True)
class Examples:
    """The training part on the device: x (N, ...) normalized float32, y (N,) int64, and the teacher's quantities,
    name -> (N, ...)."""

    x: Tensor
    y: Tensor
    teacher: Tensors = field(default_factory=dict)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor, Tensors]:
        """The samples at ``index`` (B,) or (K, B)."""
        return self.x[index], self.y[index], {name: t[index] for name, t in self.teacher.items()}


@dataclass(frozen=True)
class Student:
    """What a training step needs of one student. ``seed`` is for random numbers that the module draws (dropout)."""

    module: nn.Module
    plan: Plan
    state: State
    hparams: Hparams
    seed: int = 0


def structure(plan: Plan, state: State) -> Hashable:
    """A key that is equal for students that can be stacked: shapes, methods, active masks and ranges, device."""
    methods = (plan.clip, plan.distill, plan.optimize, plan.quantize, plan.rounded, plan.penalty, plan.penalized)
    shapes, where = tuple(plan.layout.shapes.items()), (state.params.device.type, plan.precision)
    return (shapes, methods, tuple(state.buffers), tuple(state.masks), tuple(state.ranges), where)


def train(
    students: Sequence[Student], examples: Examples, batches: Tensor, factors: Sequence[float], first: int
) -> list[tuple[State, Tensors]]:
    """Run the steps of one epoch.

    Args:
        students: K students of equal structure.
        batches: (K, steps, B) sample indices, in a different order for each student.
        factors: of the learning rate, one per step.
        first: number of steps before this epoch.
    Returns:
        Each student's state after the epoch, and its metrics (steps,).
    """
    form = fastest(students, examples, batches[:, 0])
    if form == "alone":
        return [
            _alone(s, examples, student_batches, factors, first)
            for s, student_batches in zip(students, batches, strict=True)
        ]
    plan, state, hparams = _side_by_side(students, form)
    state, metrics = _steps(plan, state, hparams, examples, batches, factors, first)
    return [(lane(state, i), lane(metrics, i)) for i in range(len(students))]


def _alone(
    student: Student, examples: Examples, batches: Tensor, factors: Sequence[float], first: int
) -> tuple[State, Tensors]:
    """Run one student's steps. Its random numbers follow from its seed and the number of steps before."""
    with seeded(student.seed, first):
        return _steps(student.plan, student.state, student.hparams, examples, batches, factors, first)


def _side_by_side(students: Sequence[Student], form: str) -> tuple[Plan, State, Hparams]:
    forward = forms(students[0].module, len(students))[form]
    plan = replace(students[0].plan, forward=forward, lift=torch.vmap)
    return plan, stack([s.state for s in students]), stack([s.hparams for s in students])


def _steps(
    plan: Plan,
    state: State,
    hparams: Hparams,
    examples: Examples,
    batches: Tensor,
    factors: Sequence[float],
    first: int,
) -> tuple[State, Tensors]:
    rate, rows = hparams.optim["lr"], []
    for i, factor in enumerate(factors):
        now = {"lr": rate * factor, "step": torch.full_like(rate, first + i + 1)}
        step_hparams = replace(hparams, optim={**hparams.optim, **now})
        state, metrics = step(plan, state, examples.batch(batches[..., i, :]), step_hparams)
        rows.append(metrics)
    return state, {name: torch.stack([r[name] for r in rows], -1) for name in rows[0]}


def forms(module: nn.Module, lanes: int) -> dict[str, Forward]:
    """The forms that can compute ``lanes`` students side by side: name -> forward pass."""
    several = stacked(module, lanes)
    return {"mapped": mapped(module), **({} if several is None else {"stacked": several})}


_FASTEST: dict[tuple[Any, ...], str] = {}


def fastest(students: Sequence[Student], examples: Examples, batch: Tensor) -> str:
    """The fastest form for these students; ``alone`` means one after the other.

    It is measured on ``batch`` (K, B), once per structure, number of lanes and batch size. Students that draw random
    numbers train alone, because side by side they would share one generator.
    """
    first, k = students[0], len(students)
    if k == 1:
        return "alone"
    key = (structure(first.plan, first.state), tuple(batch.shape), str(first.module))
    if key not in _FASTEST and draws(lambda: _logits(first.plan, first.state, examples, batch[0])):
        _FASTEST[key] = "alone"
    if key not in _FASTEST:
        alone = _seconds(first.plan, first.state, first.hparams, examples, batch[0]) * k
        seconds = {form: _checked_seconds(form, students, examples, batch) for form in forms(first.module, k)}
        _FASTEST[key] = min({"alone": alone, **seconds}.items(), key=lambda item: item[1])[0]
    return _FASTEST[key]


def _checked_seconds(form: str, students: Sequence[Student], examples: Examples, batch: Tensor) -> float:
    """Seconds of one step of all students; infinite if the form's logits differ from the module's."""
    try:
        plan, state, hparams = _side_by_side(students, form)
        logits = _logits(plan, state, examples, batch)
        for s, got, student_batch in zip(students, logits, batch, strict=True):
            expected = _logits(s.plan, s.state, examples, student_batch)
            if got.shape != expected.shape or not bool(
                (got - expected).abs().max() <= TOLERANCE * expected.abs().max()
            ):
                return float("inf")
        return _seconds(plan, state, hparams, examples, batch)
    except (RuntimeError, ValueError):  # the form does not support an operator
        return float("inf")


@torch.no_grad()
def _logits(plan: Plan, state: State, examples: Examples, index: Tensor) -> Tensor:
    """Logits in training mode with unrounded weights."""
    network = {k: v for k, v in plan.layout.split(state.params).items() if not k.startswith(LEARNED)}
    return plan.forward(network, state.buffers, {}, examples.x[index], True)[0]["logits"]


def _seconds(plan: Plan, state: State, hparams: Hparams, examples: Examples, index: Tensor) -> float:
    """Seconds of the shortest of TIMED_STEPS steps. The steps do not change ``state``."""
    times = []
    for _ in range(1 + TIMED_STEPS):
        started = time.perf_counter()
        _steps(plan, state, hparams, examples, index.unsqueeze(-2), [1.0], 0)
        if state.params.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def stack(trees: Sequence[Any]) -> Any:
    """Stack K trees of equal shape (dicts, tuples, State, Hparams) into one; its tensors have a leading K."""
    first = trees[0]
    if isinstance(first, Tensor):
        return torch.stack(list(trees))
    if isinstance(first, dict):
        return {name: stack([t[name] for t in trees]) for name in first}
    if isinstance(first, tuple):
        return tuple(stack(column) for column in zip(*trees, strict=True))
    return type(first)(*(stack([getattr(t, f.name) for t in trees]) for f in fields(first)))


def size_of(tree: Any) -> int:
    """Bytes of a tree's tensors."""
    if isinstance(tree, Tensor):
        return tree.nbytes
    if isinstance(tree, dict | tuple):
        return sum(size_of(t) for t in (tree.values() if isinstance(tree, dict) else tree))
    return sum(size_of(getattr(tree, f.name)) for f in fields(tree))


def lane(tree: Any, index: int) -> Any:
    """The ``index``-th student of a stacked tree."""
    if isinstance(tree, Tensor):
        return tree[index]
    if isinstance(tree, dict):
        return {name: lane(t, index) for name, t in tree.items()}
    if isinstance(tree, tuple):
        return tuple(lane(t, index) for t in tree)
    return type(tree)(*(lane(getattr(tree, f.name), index) for f in fields(tree)))
