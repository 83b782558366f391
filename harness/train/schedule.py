"""A student in training, and what the recipe's schedule does to it between two epochs.

Channels are removed (physically: the rest runs on the small network), weight masks grow, the weight
quantiser is switched on, and, in the last third, the activation ranges are frozen, so that the network
learns with the rounding that its file has.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import nn

from harness.recipe import Recipe, Selected
from harness.techniques import CLIPS, DISTILLS, PRUNERS, QUANTISERS, optim
from harness.train.forward import Tensors, plain, single
from harness.train.lanes import Examples
from harness.train.points import Ranges, observed_ranges, weighted_layers
from harness.train.shrink import shrink
from harness.train.step import Hparams, Layout, Plan, State, effective_weights

FREEZE_AT = 2 / 3  # share of the epochs after which activation ranges are frozen
CALIBRATION = 512  # training samples that set the activation ranges


@dataclass(frozen=True)
class Run:
    """A student in training, after ``epoch`` epochs. ``order`` shuffles; it belongs to this run."""

    recipe: Recipe
    module: nn.Module
    examples: Examples
    plan: Plan
    state: State
    hparams: Hparams
    order: torch.Generator
    epoch: int = 0
    history: tuple[dict[str, float], ...] = ()
    removed: bool = False
    kept: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.examples.x.device


def _scalars(selected: Selected, device: torch.device) -> Tensors:
    return {k: torch.tensor(float(v), device=device) for k, v in selected.options.items()}


def begin(recipe: Recipe, module: nn.Module, examples: Examples) -> Run:
    """A student before its first epoch."""
    device = examples.x.device
    params = dict(module.named_parameters())
    plan = Plan(
        forward=single(module),
        layout=Layout.of(params),
        layers=tuple(weighted_layers(module)),
        clip=CLIPS[recipe.clip.name].load(),
        distill=DISTILLS[recipe.distill.name].load(),
        optimize=optim.OPTIMIZERS[recipe.train.optimizer],
    )
    flat = Layout.join(params)
    buffers = {k: b.detach().clone() for k, b in module.named_buffers()}
    moments = {name: m["all"] for name, m in optim.init(recipe.train.optimizer, {"all": flat}).items()}
    hparams = Hparams(
        progress=torch.zeros((), device=device),
        clip=_scalars(recipe.clip, device),
        quant=_scalars(recipe.quant, device),
        distill=_scalars(recipe.distill, device),
        optim={
            k: torch.tensor(float(getattr(recipe.train, k)), device=device) for k in ("lr", "momentum", "weight_decay")
        },
    )
    order = torch.Generator().manual_seed(recipe.seed)
    return Run(recipe, module, examples, plan, State(flat, buffers, moments, {}, {}), hparams, order)


def enter(run: Run, progress: float) -> Run:
    """Apply what the schedule asks for at ``progress`` (1.0 after the last epoch)."""
    recipe = run.recipe
    at = torch.tensor(progress, device=run.device)
    run = replace(run, hparams=replace(run.hparams, progress=at))
    if recipe.prune.name == "channel":
        run = _remove_channels(run, progress)
    elif recipe.prune.name != "none":
        run = _mask_weights(run)
    bits, start = recipe.quant.options["bits"], recipe.quant.options["start"]
    if bits < 32 and progress >= start:
        run = replace(run, plan=replace(run.plan, quantise=QUANTISERS[recipe.quant.name].load()))
        if not run.state.ranges and progress >= max(start, FREEZE_AT):
            run = replace(run, state=replace(run.state, ranges=_calibrate(run)))
    return run


def _remove_channels(run: Run, progress: float) -> Run:
    options = run.recipe.prune.options
    if run.removed or options["ratio"] == 0 or progress < options["at"]:
        return run
    choose = PRUNERS["channel"].load()
    given = _scalars(run.recipe.prune, torch.device("cpu"))
    layout = run.plan.layout
    full = materialise(run.module, {**layout.split(run.state.params), **run.state.buffers})
    small, slices, kept = shrink(
        full,
        tuple(run.examples.x.shape[1:]),
        lambda scores: choose(scores, torch.tensor(progress), **given).nonzero().flatten(),
    )
    small.to(run.device).train()

    def cut(tensors: Tensors) -> Tensors:
        return {k: v.flatten()[slices[k].flatten().to(v.device)].reshape(slices[k].shape) for k, v in tensors.items()}

    params = cut(layout.split(run.state.params))
    state = replace(
        run.state,
        params=Layout.join(params),
        buffers=cut(run.state.buffers),
        moments={k: Layout.join(cut(layout.split(m))) for k, m in run.state.moments.items()},
    )
    plan = replace(run.plan, forward=single(small), layout=Layout.of(params))
    return replace(run, module=small, plan=plan, state=state, removed=True, kept=kept)


def _mask_weights(run: Run) -> Run:
    choose = PRUNERS[run.recipe.prune.name].load()
    given = _scalars(run.recipe.prune, run.device)
    if run.recipe.prune.options["ratio"] == 0:
        return run
    masks, params = {}, run.plan.layout.split(run.state.params)
    for layer in run.plan.layers:
        values = params[f"{layer}.weight"]
        before = run.state.masks.get(layer)
        values = values if before is None else values * before
        masks[layer] = choose(values, run.hparams.progress, **given).to(values.dtype)
    return replace(run, state=replace(run.state, masks=masks))


def materialise(module: nn.Module, tensors: Tensors) -> nn.Module:
    """Load ``tensors`` into ``module`` and return it on the CPU."""
    module.load_state_dict(tensors)
    return module.cpu()


def used_weights(run: Run) -> Tensors:
    params = run.plan.layout.split(run.state.params)
    return effective_weights(run.plan, params, run.state.masks, run.hparams.progress, run.hparams.quant)


@torch.no_grad()
def _calibrate(run: Run) -> Ranges:
    """Activation ranges of the first training samples, with the weights as they are rounded now."""
    ranges: Ranges = {}
    with observed_ranges(run.module, ranges):  # reads at the module's own inputs
        plain(run.module)(used_weights(run), run.state.buffers, {}, run.examples.x[:CALIBRATION], False)
    return ranges
