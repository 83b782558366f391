"""What the recipe's schedule does to a student between two epochs.

Channels are removed (physically: the rest runs on the small network), weight masks grow, the weight
quantizer is switched on, and, in the last third, the activation ranges are frozen, so that the network
learns with the rounding that its file has.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from harness.errors import SpaceError
from harness.recipe import Recipe
from harness.techniques import CLIPS, DISTILLS, optimizers
from harness.techniques.distill import guided
from harness.train import bind, pruning, rounding
from harness.train.features import watch_of
from harness.train.forward import Tensors, Watch, single
from harness.train.lanes import Examples
from harness.train.quantization_points import weighted_layers
from harness.train.step import Bound, Hparams, Layout, Plan, State
from harness.train.student import Run

OPTIMIZED = ("lr", "momentum", "weight_decay")
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def begin(recipe: Recipe, module: nn.Module, examples: Examples, teacher: Tensors | None = None) -> Run:
    """A student before its first epoch; ``teacher``: the teacher's parameters by name, for methods
    that compare parameters.

    Raises:
        SpaceError: the recipe's methods do not fit the network.
    """
    device, layers = examples.x.device, tuple(weighted_layers(module))
    clip, distill = CLIPS[recipe.clip.name], DISTILLS[recipe.distill.name]
    pruning.check(recipe.prune)
    watch = watch_of(module, distill.needs, examples.x[:1], "student")
    params = {**_first_weights(recipe, module, teacher or {}), **_projection(recipe, module, watch, examples)}
    plan = Plan(
        forward=single(module),
        layout=Layout.of(params),
        layers=layers,
        clip=bind.bound(recipe.clip, CLIPS),
        clip_on=clip.on,
        distill=bind.bound(recipe.distill, DISTILLS),
        optimize=optimizers.OPTIMIZERS[recipe.train.optimizer],
        watch=watch,
        needs=distill.needs,
        guide=Bound(guided, (("added", recipe.distill.options["added"]),)) if "gradient" in distill.needs else None,
        precision=PRECISIONS[recipe.train.precision],
    )
    flat = Layout.join(params)
    buffers = {k: b.detach().clone() for k, b in module.named_buffers()}
    moments = optimizers.init(recipe.train.optimizer, flat)
    memory = {
        name: torch.full((length,) if length else (), first, device=device, dtype=flat.dtype)
        for name, (length, first) in clip.carries.items()
    }
    hparams = Hparams(
        clip=bind.numbers(recipe.clip, CLIPS, device),
        quant=rounding.numbers(recipe.quant, layers, device),
        distill=bind.numbers(recipe.distill, DISTILLS, device),
        optim={k: torch.tensor(float(getattr(recipe.train, k)), device=device) for k in OPTIMIZED},
        teacher=teacher or {},
    )
    order = torch.Generator().manual_seed(recipe.seed)
    state = State(flat, buffers, moments, {}, {}, memory)
    return pruning.penalized(Run(recipe, module, examples, plan, state, hparams, order))


def _first_weights(recipe: Recipe, module: nn.Module, teacher: Tensors) -> Tensors:
    """The student's parameters before training: its own, or the teacher's."""
    params = {name: p.detach() for name, p in module.named_parameters()}
    if "parameters" not in DISTILLS[recipe.distill.name].needs:
        return params
    if {n: p.shape for n, p in params.items()} != {n: p.shape for n, p in teacher.items()}:
        rule = f"{recipe.distill.name!r} needs a teacher of the student's names and shapes of parameters"
        raise SpaceError("distill.kind", rule, remedy="Describe the same model in `teacher` and `student`.")
    return dict(teacher) if recipe.distill.options["from_teacher"] else params


def _projection(recipe: Recipe, module: nn.Module, watch: Watch, examples: Examples) -> Tensors:
    """The projection that a hint learns, from its first weights (uniform, as of a linear layer)."""
    if "embedding" not in watch:
        return {}
    read = module.get_parameter(f"{watch['embedding']}.weight")
    wide, narrow = examples.teacher["embedding"].shape[1], read.shape[1]
    seeded = torch.Generator().manual_seed(recipe.seed)
    first = (2 * torch.rand(wide, narrow, generator=seeded) - 1) / narrow**0.5
    return {pruning.PROJECTION: first.to(read)}


def enter(run: Run, progress: float) -> Run:
    """Apply what the schedule asks for at ``progress`` (1.0 after the last epoch)."""
    distilling = _warmed_up(_weigh_teacher(run, progress), progress)
    return rounding.enter(pruning.enter(distilling, progress), progress)


def _weigh_teacher(run: Run, progress: float) -> Run:
    """The teacher's weight: 0 before ``distill.start``; with ``schedule: linear`` it falls to 0 at the end."""
    options = run.recipe.distill.options
    if options.get("schedule", "constant") == "constant" and not options.get("start"):
        return run
    share = 1 - progress if options["schedule"] == "linear" else 1.0
    weight = torch.tensor(options["weight"] * share * (progress >= options["start"]), device=run.device)
    return replace(run, hparams=replace(run.hparams, distill={**run.hparams.distill, "weight": weight}))


def _warmed_up(run: Run, progress: float) -> Run:
    """``distill.warmup``: alpha and beta rise in equal steps, one an epoch, over that share of the epochs from
    ``start`` on; the labels keep their weight (Zhao et al. 2022: ``min(epoch / 20, 1)`` of 240 epochs, counted
    from 1)."""
    options = run.recipe.distill.options
    if not options.get("warmup"):
        return run
    risen_for = max(progress - options["start"], 0.0) + 1 / run.recipe.train.epochs
    factor = min(risen_for / options["warmup"], 1.0)
    risen = {name: torch.tensor(options[name] * factor, device=run.device) for name in ("alpha", "beta")}
    return replace(run, hparams=replace(run.hparams, distill={**run.hparams.distill, **risen}))
