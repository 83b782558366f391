"""Remove channels and mask weights during training: at once, step by step, or by attempts that may be undone.

Channels are removed physically. Parameters, buffers, the optimizer's moments and the tensors of methods are sliced
alike, and training continues on the smaller network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import SpaceError
from harness.recipe import Selected
from harness.techniques import PRUNERS
from harness.techniques.prune import CHANNEL_SCORES, PENALTIES, WEIGHT_SCORES, ramp, together
from harness.train import bind
from harness.train.evaluate import accuracy
from harness.train.forward import Tensors, single
from harness.train.quantization_points import first_names, owners
from harness.train.rounding import CALIBRATION
from harness.train.shrink import Channels, groups_of, shrink
from harness.train.step import LEARNED, Layout, network_loss
from harness.train.student import Run

PROJECTION = f"{LEARNED}distill.projection"
SMALLEST_STRIDE = 0.01  # smallest increase of the ratio that a rollback tries, unless ``step`` is smaller
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def enter(run: Run, progress: float) -> Run:
    """The run after the pruning that the recipe does at ``progress`` (share of the epochs)."""
    prune = run.recipe.prune
    if prune.name == "none" or prune.options["ratio"] == 0:
        return run
    if prune.name == "weight":
        return _mask_weights(run, progress)
    return _attempted(run, progress) if prune.name == "rollback" else _scheduled(run, progress)


def check(prune: Selected) -> None:
    """Refuse options that exclude each other.

    Raises:
        SpaceError: a ratio by layer with a global scope, or a score that cannot rank single weights.
    """
    options = prune.options
    if options.get("scope") == "global" and isinstance(options["ratio"], Mapping):
        rule = "must be one number where `scope` is global: all layers are ranked together"
        raise SpaceError("prune.ratio", rule, dict(options["ratio"]), "Leave `scope` out to prune by layer.")
    if options.get("of", "channels") != "channels" and options["score"] not in WEIGHT_SCORES:
        rule = f"must be one of {', '.join(WEIGHT_SCORES)} where single weights are pruned"
        raise SpaceError("prune.score", rule, options["score"])


def penalized(run: Run) -> Run:
    """The run with the recipe's regularizer switched on."""
    options = run.recipe.prune.options
    if options["regularize"] == "none":
        return run
    norms = tuple(f"{n}.weight" for n, m in run.module.named_modules() if isinstance(m, NORMS) and m.affine)
    norms = tuple(name for name in norms if name in run.plan.layout.shapes)  # of tied norms only the first
    names = norms if options["on"] == "scales" else tuple(f"{layer}.weight" for layer in run.plan.layers)
    if not names:
        raise SpaceError("prune.on", "there is no batch norm whose scales could be regularized", "scales")
    strength = torch.tensor(float(options["strength"]), device=run.device)
    plan = replace(run.plan, penalty=PENALTIES[options["regularize"]], penalized=names)
    return replace(run, plan=plan, hparams=replace(run.hparams, prune={"strength": strength}))


def _scheduled(run: Run, progress: float) -> Run:
    """Method ``channel``: remove channels up to the ramp's value, by layer or by one ranking of all layers."""
    options, numbers = run.recipe.prune.options, bind.numbers(run.recipe.prune, PRUNERS, torch.device("cpu"))
    share = ramp(torch.tensor(progress), numbers["at"], numbers["end"]).item()
    if share <= run.removed:
        return run
    if options["scope"] == "global":
        return replace(
            _without(run, lambda scores, total: _ranked_globally(scores, total, share, options)), removed=share
        )
    ratios = bind.by_layer("prune.ratio", options["ratio"], run.plan.layers)
    choose, now = bind.bound(run.recipe.prune, PRUNERS), torch.tensor(progress)

    def keep(scores: Tensors, total: Tensors) -> Tensors:
        numbers_by_group = {path: {**numbers, "ratio": torch.tensor(ratios[path])} for path in scores}
        return {path: choose(s, now, total[path], **numbers_by_group[path]) for path, s in scores.items()}

    return replace(_without(run, keep), removed=share)


def _ranked_globally(scores: Tensors, total: Tensors, share: float, options: Mapping[str, Any]) -> Tensors:
    """Masks by one ranking of all layers, at ``share`` (0 to 1) of the recipe's ratio."""
    if not scores:
        return {}
    remaining = torch.round((1 - share * options["ratio"]) * torch.stack(list(total.values())).sum())
    return dict(zip(scores, together(list(scores.values()), remaining, options["round_to"]), strict=True))


def _attempted(run: Run, progress: float) -> Run:
    """Method ``rollback``: remove a little more, and undo it if accuracy drops by more than ``tolerance``.

    After an undone attempt the stride is halved; with random scores it stays, and other channels are drawn. After
    ``attempts`` undone attempts pruning waits for the next epoch.
    """
    options = run.recipe.prune.options
    if progress < options["at"]:
        return run
    run = replace(run, stride=run.stride or options["step"])
    x, y = run.examples.x[:CALIBRATION], run.examples.y[:CALIBRATION]
    before, failed, smallest = accuracy(run, x, y), 0, min(SMALLEST_STRIDE, options["step"])
    while run.removed < options["ratio"] and run.stride >= smallest and failed < options["attempts"]:
        next_ratio = min(run.removed + run.stride, options["ratio"])
        tried, tries = _attempt(run, progress, next_ratio), run.attempts + 1
        if accuracy(tried, x, y) < before - options["tolerance"]:
            failed += 1
            run = replace(run, attempts=tries, stride=run.stride / (1 if options["score"] == "random" else 2))
        else:
            run = replace(tried, attempts=tries, removed=next_ratio)
    return run


def _attempt(run: Run, progress: float, ratio: float) -> Run:
    """The run with the share ``ratio`` removed: of the channels, of single weights, or of both. With both, the weights
    are a share of those in the remaining channels."""
    choose, options = bind.bound(run.recipe.prune, PRUNERS), run.recipe.prune.options
    target_ratio, now = torch.tensor(ratio), torch.tensor(progress)
    if options["of"] != "weights":
        numbers = {"ratio": target_ratio, "round_to": torch.tensor(float(options["round_to"]))}
        run = _without(run, lambda scores, total: {p: choose(s, now, total[p], **numbers) for p, s in scores.items()})
    if options["of"] == "channels":
        return run
    generator, masks = _score_generator(run), {}
    for layer, weight in _masked_weights(run).items():
        scores = WEIGHT_SCORES[options["score"]](weight.detach().flatten().cpu(), generator)
        gone = run.state.masks.get(layer, torch.ones_like(weight)).flatten().cpu() == 0
        scores = torch.where(gone, torch.full_like(scores, -1.0), scores)
        total = torch.tensor(float(weight.numel()))
        mask = choose(scores, now, total, ratio=target_ratio, round_to=torch.tensor(1.0))
        masks[layer] = mask.reshape(weight.shape).to(weight)
    return replace(run, state=replace(run.state, masks=masks))


def _score_generator(run: Run) -> torch.Generator:
    """The generator of random scores, seeded differently for every attempt of a rollback."""
    return torch.Generator().manual_seed(run.recipe.seed + 1_000_003 * run.attempts)


def _masked_weights(run: Run) -> Tensors:
    """The trained weights of each layer, with masked ones at 0."""
    params = run.plan.layout.split(run.state.params)
    one = torch.ones((), device=run.device)
    return {layer: params[f"{layer}.weight"] * run.state.masks.get(layer, one) for layer in run.plan.layers}


def _without(run: Run, keep: Callable[[Tensors, Tensors], Tensors]) -> Run:
    """The run without some channels.

    Args:
        keep: called with two mappings by group path, scores (C,) and the number of channels before pruning; returns
            masks (C,) of the channels to keep.
    """
    layout, shape = run.plan.layout, tuple(run.examples.x.shape[1:])
    weights = {f"{layer}.weight": weight for layer, weight in _masked_weights(run).items()}
    full = materialize(run.module, {**network_of(run), **weights, **run.state.buffers})
    groups = {channels.path: channels for channels in groups_of(full, shape, _slopes(run))}
    scores = _scores(run, groups)
    masks = keep(scores, {p: torch.tensor(float(run.kept.get(p, (0, len(s)))[1])) for p, s in scores.items()})
    small, slices, kept = shrink(full, shape, lambda channels: masks[channels.path].nonzero().flatten())
    small.to(run.device).train()
    if PROJECTION in layout.shapes:
        read = slices[f"{owners(full)[run.plan.watch['embedding']]}.weight"]
        slices |= {PROJECTION: _kept_columns(layout.shapes[PROJECTION], read)}
    at_first = {path: run.kept.get(path, pair)[1] for path, pair in kept.items()}
    return replace(_cut(run, small, slices), kept={path: (pair[0], at_first[path]) for path, pair in kept.items()})


def _scores(run: Run, groups: Mapping[str, Channels]) -> Tensors:
    """The scores (C,) of every group of channels.

    Raises:
        SpaceError: ``bn_scale`` is asked for, but no batch norm follows a group.
    """
    score, generator = run.recipe.prune.options["score"], _score_generator(run)
    for channels in groups.values():
        if score == "bn_scale" and not channels.scales.shape[1]:
            raise SpaceError("prune.score", f"'bn_scale' needs a batch norm behind {channels.path}", score)
    return {p: CHANNEL_SCORES[score](c.weights, c.gates, c.scales, generator) for p, c in groups.items()}


def _cut(run: Run, small: nn.Module, slices: Tensors) -> Run:
    """The run on the smaller module. ``slices``: flat indices of the elements of each tensor that stay."""
    layout = run.plan.layout

    def cut(tensors: Tensors) -> Tensors:
        return {
            k: v.flatten()[slices[k].flatten().to(v.device)].reshape(slices[k].shape) if k in slices else v
            for k, v in tensors.items()
        }

    params, masks = cut(layout.split(run.state.params)), {f"{layer}.weight": m for layer, m in run.state.masks.items()}
    state = replace(
        run.state,
        params=Layout.join(params),
        buffers=cut(run.state.buffers),
        moments={k: Layout.join(cut(layout.split(m))) for k, m in run.state.moments.items()},
        masks={name.removesuffix(".weight"): m for name, m in cut(masks).items()},
    )
    plan = replace(run.plan, forward=single(small), layout=Layout.of(params))
    hparams = replace(run.hparams, teacher=cut(run.hparams.teacher))
    return replace(run, module=small, plan=plan, state=state, hparams=hparams)


def _kept_columns(shape: tuple[int, ...], last: Tensor) -> Tensor:
    """Flat indices of the elements of a projection (F_t, F_s) that stay. ``last``: those of the last layer's weight."""
    columns = last[0] % shape[1]
    return torch.arange(shape[0]).unsqueeze(1) * shape[1] + columns


def _slopes(run: Run) -> Tensors:
    """For the score ``taylor``: name -> (rows, b) on the CPU, the sum of w * dL/dw over every row (first dimension) of
    a parameter on each of b mini-batches. These are of the first CALIBRATION training samples, in training mode."""
    if run.recipe.prune.options["score"] != "taylor":
        return {}
    x, y = run.examples.x[:CALIBRATION], run.examples.y[:CALIBRATION]
    size = min(run.recipe.train.batch_size, len(y))
    leaves = {name: p.detach().clone().requires_grad_() for name, p in network_of(run).items()}
    columns: list[Tensors] = []
    for i in range(0, len(y) - size + 1, size):
        loss = network_loss(run.plan, leaves, run.state.buffers, x[i : i + size], y[i : i + size])
        pairs = zip(leaves.items(), torch.autograd.grad(loss, list(leaves.values())), strict=True)
        columns.append({name: (p * g).detach().reshape(len(p), -1).sum(1).cpu() for (name, p), g in pairs})
    return {name: torch.stack([column[name] for column in columns], 1) for name in leaves}


def _mask_weights(run: Run, progress: float) -> Run:
    """Method ``weight``: mask weights, ranked by layer or over all layers."""
    choose, prune = bind.bound(run.recipe.prune, PRUNERS), run.recipe.prune
    numbers, now = bind.numbers(prune, PRUNERS, run.device), torch.tensor(progress, device=run.device)
    values = _masked_weights(run)
    total = torch.tensor(float(sum(v.numel() for v in values.values())), device=run.device)
    if prune.options["scope"] == "global":
        together = choose(torch.cat([v.flatten() for v in values.values()]), now, total, **numbers)
        parts = together.split([v.numel() for v in values.values()])
        masks = {layer: m.reshape(v.shape) for (layer, v), m in zip(values.items(), parts, strict=True)}
    else:
        ratios = bind.by_layer("prune.ratio", prune.options["ratio"], run.plan.layers)
        numbers_by_layer = {
            layer: {**numbers, "ratio": torch.tensor(ratios[layer], device=run.device)} for layer in values
        }
        masks = {layer: choose(v, now, total, **numbers_by_layer[layer]) for layer, v in values.items()}
    typed_masks = {layer: mask.to(values[layer].dtype) for layer, mask in masks.items()}
    return replace(run, state=replace(run.state, masks=typed_masks))


def network_of(run: Run) -> Tensors:
    """The network's own trained parameters, without those of methods."""
    return {k: v for k, v in run.plan.layout.split(run.state.params).items() if not k.startswith(LEARNED)}


def materialize(module: nn.Module, tensors: Tensors) -> nn.Module:
    """Load ``tensors`` (parameters and buffers by name) into ``module``; return the module on the CPU."""
    saved, first = module.state_dict().keys(), first_names(module)
    module.load_state_dict({name: tensors[first[name]] for name in saved})
    for name, buffer in module.named_buffers():
        if name not in saved:  # a non-persistent buffer
            buffer.data = tensors[name].to(buffer.device)
    return module.cpu()
