"""When channels are removed and weights masked: at once, step by step, or by attempts that are taken back.

A removal is physical: parameters, buffers, the optimiser's moments and what methods keep beside the
network are cut alike, and the rest of the training runs on the small network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from harness.errors import SpaceError
from harness.techniques import PRUNERS
from harness.techniques.prune import CHANNEL_SCORES, PENALTIES, ramp
from harness.train import methods
from harness.train.evaluate import accuracy
from harness.train.forward import Tensors, single
from harness.train.rounding import CALIBRATION
from harness.train.run import Run
from harness.train.shrink import Channels, shrink
from harness.train.step import LEARNED, Layout, network_loss

PROJECTION = f"{LEARNED}distill.projection"
SMALLEST_STRIDE = 0.01  # of the channels: attempts below it are given up
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def enter(run: Run, progress: float) -> Run:
    """Prune what the recipe prunes at ``progress``."""
    prune = run.recipe.prune
    if prune.name == "none" or prune.options["ratio"] == 0:
        return run
    if prune.name == "weight":
        return _mask_weights(run, progress)
    return _attempted(run, progress) if prune.name == "rollback" else _scheduled(run, progress)


def penalised(run: Run) -> Run:
    """Switch on what the recipe's regulariser asks for."""
    options = run.recipe.prune.options
    if options["regularise"] == "none":
        return run
    norms = tuple(f"{name}.weight" for name, m in run.module.named_modules() if isinstance(m, NORMS))
    names = norms if options["on"] == "scales" else tuple(f"{layer}.weight" for layer in run.plan.layers)
    if not names:
        raise SpaceError("prune.on", "there is no batch norm whose scales could be regularised", "scales")
    strength = torch.tensor(float(options["strength"]), device=run.device)
    plan = replace(run.plan, penalty=PENALTIES[options["regularise"]], penalised=names)
    return replace(run, plan=plan, hparams=replace(run.hparams, prune={"strength": strength}))


def _scheduled(run: Run, progress: float) -> Run:
    """``channel``: by its ramp."""
    given = methods.numbers(run.recipe.prune, PRUNERS, torch.device("cpu"))
    share = ramp(torch.tensor(progress), given["at"], given["end"]).item()
    if share <= run.removed:
        return run
    ratios = methods.by_layer("prune.ratio", run.recipe.prune.options["ratio"], run.plan.layers)
    return replace(_without(run, progress, lambda path: {**given, "ratio": torch.tensor(ratios[path])}), removed=share)


def _attempted(run: Run, progress: float) -> Run:
    """``rollback``: remove a little more, and take it back where it costs too much; the next attempt,
    an epoch later, is then half as large."""
    options = run.recipe.prune.options
    if progress < options["at"]:
        return run
    run = replace(run, stride=run.stride or options["step"])
    given = methods.numbers(run.recipe.prune, PRUNERS, torch.device("cpu"))
    x, y = run.examples.x[:CALIBRATION], run.examples.y[:CALIBRATION]
    before = accuracy(run, x, y)
    while run.removed < options["ratio"] and run.stride >= SMALLEST_STRIDE:
        wanted = min(run.removed + run.stride, options["ratio"])
        tried = _without(run, progress, lambda _, w=wanted: {**given, "ratio": torch.tensor(w)})
        if accuracy(tried, x, y) < before - options["tolerance"]:
            return replace(run, stride=run.stride / 2)
        run = replace(tried, removed=wanted)
    return run


def _without(run: Run, progress: float, given: Callable[[str], Tensors]) -> Run:
    """The run without the channels that its method leaves out; ``given``: its numbers for a layer."""
    layout, now = run.plan.layout, torch.tensor(progress)
    choose, score = methods.bound(run.recipe.prune, PRUNERS), run.recipe.prune.options["score"]
    full = materialise(run.module, {**network_of(run), **run.state.buffers})
    lot = torch.Generator().manual_seed(run.recipe.seed)

    def keep(channels: Channels) -> Tensor:
        if score == "bn_scale" and not channels.scales.shape[1]:
            raise SpaceError("prune.score", f"'bn_scale' needs a batch norm behind {channels.path}", score)
        scores = CHANNEL_SCORES[score](channels.weights, channels.gradients, channels.scales, lot)
        total = torch.tensor(float(run.kept.get(channels.path, (0, len(scores)))[1]))
        return choose(scores, now, total, **given(channels.path)).nonzero().flatten()

    gradients = _gradients(run) if score == "taylor" else {}
    small, slices, kept = shrink(full, tuple(run.examples.x.shape[1:]), keep, gradients)
    small.to(run.device).train()
    if PROJECTION in layout.shapes:
        slices |= {PROJECTION: _kept_columns(layout.shapes[PROJECTION], slices[f"{run.plan.layers[-1]}.weight"])}
    at_first = {path: run.kept.get(path, pair)[1] for path, pair in kept.items()}
    return replace(_cut(run, small, slices), kept={path: (pair[0], at_first[path]) for path, pair in kept.items()})


def _cut(run: Run, small: nn.Module, slices: Tensors) -> Run:
    """The run on the smaller module; ``slices``: flat indices of what stays of each tensor."""
    layout = run.plan.layout

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
    return replace(run, module=small, plan=plan, state=state, hparams=hparams)


def _kept_columns(shape: tuple[int, ...], last: Tensor) -> Tensor:
    """Flat indices of what stays of a projection (F_t, F_s), where ``last`` stays of the last layer."""
    columns = last[0] % shape[1]
    return torch.arange(shape[0]).unsqueeze(1) * shape[1] + columns


def _gradients(run: Run) -> Tensors:
    """Of the cross-entropy on the first training samples to the network's parameters, on the CPU."""
    leaves = {name: p.detach().clone().requires_grad_() for name, p in network_of(run).items()}
    loss = network_loss(run.plan, leaves, run.state.buffers, run.examples.x[:CALIBRATION], run.examples.y[:CALIBRATION])
    return {name: g.cpu() for name, g in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)}


def _mask_weights(run: Run, progress: float) -> Run:
    """``weight``: masks of every layer, or of all of them ranked together."""
    choose, prune = methods.bound(run.recipe.prune, PRUNERS), run.recipe.prune
    given, now = methods.numbers(prune, PRUNERS, run.device), torch.tensor(progress, device=run.device)
    params = run.plan.layout.split(run.state.params)
    values = {
        layer: params[f"{layer}.weight"] * run.state.masks.get(layer, torch.ones((), device=run.device))
        for layer in run.plan.layers
    }
    total = torch.tensor(float(sum(v.numel() for v in values.values())), device=run.device)
    if prune.options["scope"] == "global":
        together = choose(torch.cat([v.flatten() for v in values.values()]), now, total, **given)
        parts = together.split([v.numel() for v in values.values()])
        masks = {layer: m.reshape(v.shape) for (layer, v), m in zip(values.items(), parts, strict=True)}
    else:
        ratios = methods.by_layer("prune.ratio", prune.options["ratio"], run.plan.layers)
        own = {layer: {**given, "ratio": torch.tensor(ratios[layer], device=run.device)} for layer in values}
        masks = {layer: choose(v, now, total, **own[layer]) for layer, v in values.items()}
    kept = {layer: mask.to(values[layer].dtype) for layer, mask in masks.items()}
    return replace(run, state=replace(run.state, masks=kept))


def network_of(run: Run) -> Tensors:
    """The network's own parameters, as they are trained."""
    return {k: v for k, v in run.plan.layout.split(run.state.params).items() if not k.startswith(LEARNED)}


def materialise(module: nn.Module, tensors: Tensors) -> nn.Module:
    """Load ``tensors``, parameters and buffers by name, into ``module`` and return it on the CPU."""
    saved = module.state_dict().keys()
    module.load_state_dict({name: t for name, t in tensors.items() if name in saved})
    for name, buffer in module.named_buffers():
        if name not in saved:  # one that is no part of the state_dict
            buffer.data = tensors[name].to(buffer.device)
    return module.cpu()
