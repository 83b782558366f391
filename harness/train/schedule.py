"""What the recipe's schedule does to a student between two epochs.

Channels are removed (physically: the rest runs on the small network), weight masks grow, the weight
quantiser is switched on, and, in the last third, the activation ranges are frozen, so that the network
learns with the rounding that its file has.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from harness.errors import SpaceError
from harness.recipe import Recipe
from harness.techniques import CLIPS, DISTILLS, PRUNERS, optim
from harness.train import methods, rounding
from harness.train.features import watch_of
from harness.train.forward import Tensors, Watch, single
from harness.train.lanes import Examples
from harness.train.points import weighted_layers
from harness.train.run import Run
from harness.train.shrink import shrink
from harness.train.step import LEARNED, Hparams, Layout, Plan, State

PROJECTION = f"{LEARNED}distill.projection"
OPTIMISED = ("lr", "momentum", "weight_decay")


def begin(recipe: Recipe, module: nn.Module, examples: Examples, teacher: Tensors | None = None) -> Run:
    """A student before its first epoch; ``teacher``: the teacher's parameters by name, for methods
    that compare parameters.

    Raises:
        SpaceError: the recipe's methods do not fit the network.
    """
    device, layers = examples.x.device, tuple(weighted_layers(module))
    clip, distill = CLIPS[recipe.clip.name], DISTILLS[recipe.distill.name]
    watch = watch_of(module, distill.needs, examples.x[:1], "student")
    params = {**_first_weights(recipe, module, teacher or {}), **_projection(recipe, module, watch, examples)}
    plan = Plan(
        forward=single(module),
        layout=Layout.of(params),
        layers=layers,
        clip=methods.bound(recipe.clip, CLIPS),
        clip_on=clip.on,
        distill=methods.bound(recipe.distill, DISTILLS),
        optimize=optim.OPTIMIZERS[recipe.train.optimizer],
        watch=watch,
        needs=distill.needs,
    )
    flat = Layout.join(params)
    buffers = {k: b.detach().clone() for k, b in module.named_buffers()}
    moments = {name: m["all"] for name, m in optim.init(recipe.train.optimizer, {"all": flat}).items()}
    memory = {
        name: torch.full((length,) if length else (), first, device=device, dtype=flat.dtype)
        for name, (length, first) in clip.carries.items()
    }
    hparams = Hparams(
        clip=methods.numbers(recipe.clip, CLIPS, device),
        quant=rounding.numbers(recipe.quant, layers, device),
        distill=methods.numbers(recipe.distill, DISTILLS, device),
        optim={k: torch.tensor(float(getattr(recipe.train, k)), device=device) for k in OPTIMISED},
        teacher=teacher or {},
    )
    order = torch.Generator().manual_seed(recipe.seed)
    return Run(recipe, module, examples, plan, State(flat, buffers, moments, {}, {}, memory), hparams, order)


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
    return {PROJECTION: first.to(read)}


def enter(run: Run, progress: float) -> Run:
    """Apply what the schedule asks for at ``progress`` (1.0 after the last epoch)."""
    if run.recipe.prune.name == "channel":
        run = _remove_channels(run, progress)
    elif run.recipe.prune.name != "none":
        run = _mask_weights(run, progress)
    return rounding.enter(_distil_less(run, progress), progress)


def _distil_less(run: Run, progress: float) -> Run:
    """``distill.schedule: linear``: the teacher's weight falls to 0 at the end."""
    options = run.recipe.distill.options
    if options.get("schedule") != "linear":
        return run
    weight = torch.tensor(options["weight"] * (1 - progress), device=run.device)
    return replace(run, hparams=replace(run.hparams, distill={**run.hparams.distill, "weight": weight}))


def _remove_channels(run: Run, progress: float) -> Run:
    options = run.recipe.prune.options
    if run.removed or options["ratio"] == 0 or progress < options["at"]:
        return run
    choose = methods.bound(run.recipe.prune, PRUNERS)
    given = methods.numbers(run.recipe.prune, PRUNERS, torch.device("cpu"))
    layout = run.plan.layout
    full = materialise(run.module, {**network_of(run), **run.state.buffers})
    small, slices, kept = shrink(
        full,
        tuple(run.examples.x.shape[1:]),
        lambda scores: choose(scores, torch.tensor(progress), **given).nonzero().flatten(),
    )
    small.to(run.device).train()
    if PROJECTION in layout.shapes:
        slices |= {PROJECTION: _kept_columns(layout.shapes[PROJECTION], slices[f"{run.plan.layers[-1]}.weight"])}

    def cut(tensors: Tensors) -> Tensors:
        return {
            k: v.flatten()[slices[k].flatten().to(v.device)].reshape(slices[k].shape) if k in slices else v
            for k, v in tensors.items()
        }

    params = cut(layout.split(run.state.params))
    state = replace(
        run.state,
        params=Layout.join(params),
        buffers=cut(run.state.buffers),
        moments={k: Layout.join(cut(layout.split(m))) for k, m in run.state.moments.items()},
    )
    plan = replace(run.plan, forward=single(small), layout=Layout.of(params))
    hparams = replace(run.hparams, teacher=cut(run.hparams.teacher))
    return replace(run, module=small, plan=plan, state=state, hparams=hparams, removed=True, kept=kept)


def _kept_columns(shape: tuple[int, ...], last: Tensor) -> Tensor:
    """Flat indices of what stays of a projection (F_t, F_s), where ``last`` stays of the last layer."""
    columns = last[0] % shape[1]
    return torch.arange(shape[0]).unsqueeze(1) * shape[1] + columns


def _mask_weights(run: Run, progress: float) -> Run:
    choose = methods.bound(run.recipe.prune, PRUNERS)
    given = methods.numbers(run.recipe.prune, PRUNERS, run.device)
    if run.recipe.prune.options["ratio"] == 0:
        return run
    masks, params = {}, run.plan.layout.split(run.state.params)
    for layer in run.plan.layers:
        values = params[f"{layer}.weight"]
        before = run.state.masks.get(layer)
        values = values if before is None else values * before
        masks[layer] = choose(values, torch.tensor(progress, device=run.device), **given).to(values.dtype)
    return replace(run, state=replace(run.state, masks=masks))


def network_of(run: Run) -> Tensors:
    """The network's own parameters, as they are trained."""
    return {k: v for k, v in run.plan.layout.split(run.state.params).items() if not k.startswith(LEARNED)}


def materialise(module: nn.Module, tensors: Tensors) -> nn.Module:
    """Load ``tensors`` into ``module`` and return it on the CPU."""
    module.load_state_dict(tensors)
    return module.cpu()
