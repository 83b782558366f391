"""Remove channels physically: smaller tensors, and the function of the network with these channels at zero.

torch-pruning's dependency graph (Fang et al. 2023, arXiv:2301.12900) finds the layers that share a channel through
residual sums, batch norms, depthwise convolutions and flattening. It only does the cutting; which channels are removed
is decided by the scores in ``techniques/prune.py``.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from harness.errors import TrialError
from harness.train.quantization_points import is_weighted, ties

Slices = dict[str, Tensor]  # name of a tensor -> flat indices of the elements that stay, in the new shape
Kept = dict[str, tuple[int, int]]  # layer path -> (channels kept, channels before)

log = logging.getLogger(__name__)
SAME = 1e-4  # share of the largest output by which the smaller network may differ: above float32 rounding

_WEIGHTED = (nn.Conv2d, nn.Linear)
_WHOLE = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)  # their channels are coupled inside
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_OUT = (tp.prune_conv_out_channels, tp.prune_linear_out_channels, tp.prune_depthwise_conv_out_channels)
_IN = (tp.prune_conv_in_channels, tp.prune_linear_in_channels)


@dataclass(frozen=True)
class _Removal:
    """Removal of the channels ``gone`` from the layer at ``path`` and from all layers coupled with it."""

    path: str
    handler: Callable[..., nn.Module]
    gone: list[int]


@dataclass(frozen=True)
class Channels:
    """A group of C coupled channels.

    path     of a layer that produces them
    weights  (C, n): all filters that produce a channel
    gates    (C, b): slopes of the channels' gates on b mini-batches; b = 0 if none were given
    scales   (C, k): gammas of the batch norms
    """

    path: str
    weights: Tensor
    gates: Tensor
    scales: Tensor


def groups_of(module: nn.Module, input_shape: tuple[int, ...], slopes: Mapping[str, Tensor]) -> list[Channels]:
    """The groups of coupled channels that can be removed, in the order in which :func:`shrink` asks for them.

    Args:
        slopes: name of a parameter w -> (rows, b), the sum of w * dL/dw over every row (first dimension) on b
            mini-batches; {} if no gates are needed.
    """
    names, groups = _cuttable(module, _sample(module, input_shape))
    return [_channels(group, names, slopes) for group in groups]


def shrink(
    module: nn.Module, input_shape: tuple[int, ...], keep: Callable[[Channels], Tensor]
) -> tuple[nn.Module, Slices, Kept]:
    """Copy ``module`` without the channels that ``keep`` leaves out.

    A group keeps all its channels if removing some would change what the rest computes: channels that recurrent or
    attention layers read, that a layer norm averages over, that are split into heads, or in layers with tied tensors.

    Args:
        module: on the CPU; not changed.
        input_shape: of one sample, for tracing.
        keep: a group of coupled channels -> indices that stay, ascending and not empty.
    Returns:
        The smaller module; for every parameter and buffer the flat indices into the old tensor, with which an
        optimizer's moments can be sliced alike; for every layer the numbers of channels after and before.
    Raises:
        TrialError: channels should have been removed, but no layer got smaller.
    """
    sample = _sample(module, input_shape)
    cuts = _planned(module, sample, keep)
    small, slices = _cut(module, cuts, sample)
    if not _same_function(module, small, slices, sample):
        cuts = _harmless(module, cuts, sample)
        small, slices = _cut(module, cuts, sample)
    before = {name: m.weight.shape[0] for name, m in module.named_modules() if isinstance(m, _WEIGHTED)}
    after = {name: m.weight.shape[0] for name, m in small.named_modules() if isinstance(m, _WEIGHTED)}
    if cuts and sum(after.values()) >= sum(before.values()):
        raise TrialError(f"channels were to be removed from {len(cuts)} groups of layers, but none got smaller")
    return small.train(module.training), slices, {k: (after[k], n) for k, n in before.items()}


def _sample(module: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    sample = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))
    return sample.to(next(module.parameters()).dtype)


def _planned(module: nn.Module, sample: Tensor, keep: Callable[[Channels], Tensor]) -> list[_Removal]:
    """The removals of what ``keep`` leaves out of every group that can be cut."""
    (names, groups), cuts = _cuttable(module, sample), []
    for group in groups:
        channels = _channels(group, names, {})
        kept = keep(channels)
        gone = sorted(set(range(len(channels.weights))) - set(kept.tolist()))
        if gone:
            cuts.append(_Removal(names[group[0].dep.target.module], group[0].dep.handler, gone))
    return cuts


def _cuttable(module: nn.Module, sample: Tensor) -> tuple[dict[nn.Module, str], list[Any]]:
    """Of a copy of ``module``: the paths of its modules, and its groups of channels that can be removed."""
    copied = copy.deepcopy(module).eval()
    graph = _graph(copied, sample)
    groups, whole = [], _kept_whole(copied)
    for group in [] if graph is None else _groups(graph):
        if not any(item.dep.handler in _IN for item in group):
            continue  # no layer reads these channels: they are the network's outputs
        if not any(isinstance(m := item.dep.target.module, _WHOLE) or m in whole for item in group):
            groups.append(group)
    return {m: name for name, m in copied.named_modules()}, groups


def _kept_whole(module: nn.Module) -> set[nn.Module]:
    """The modules that torch-pruning must not cut: those that share a tensor, which it would separate, and layers with
    their own forward or a computed weight."""
    tied = {name.rpartition(".")[0] for pair in ties(module).items() for name in pair}
    alone = {m for m in module.modules() if isinstance(m, _WEIGHTED) and not is_weighted(m)}
    return alone | {module.get_submodule(path) for path in tied}


def _groups(graph: tp.DependencyGraph) -> Iterator[Any]:
    """The groups of coupled channels. Layers that torch-pruning cannot handle are skipped."""
    seen: set[nn.Module] = set()
    for layer in list(graph.module2node):
        pruner = graph.get_pruner_of_module(layer) if isinstance(layer, _WEIGHTED) and layer not in seen else None
        if pruner is None:
            continue
        try:
            group = graph.get_pruning_group(layer, pruner.prune_out_channels, list(range(layer.weight.shape[0])))
        except Exception as error:  # for unknown operators it raises errors of many types
            log.info("the channels of %s stay (%s: %s)", layer, type(error).__name__, error)
            continue
        seen |= {item.dep.target.module for item in group if graph.is_out_channel_pruning_fn(item.dep.handler)}
        yield group


def _graph(module: nn.Module, sample: Tensor) -> tp.DependencyGraph | None:
    """The graph of layers that share channels; None if the network cannot be traced. Then nothing is removed."""
    try:
        return tp.DependencyGraph().build_dependency(module, sample[:1])
    except Exception as error:  # any error of the network's operators may be raised
        log.warning("no channels can be removed, the network's graph cannot be read (%s)", error)
        return None


def _harmless(module: nn.Module, cuts: list[_Removal], sample: Tensor) -> list[_Removal]:
    """The removals in ``cuts`` that do not change what the rest computes, tried one after the other."""
    accepted: list[_Removal] = []
    for cut in cuts:
        try:
            small, slices = _cut(module, [*accepted, cut], sample)
        except Exception as error:  # torch-pruning and the user's forward raise errors of many types
            log.info("the channels of %s stay (%s)", cut.path, error)
            continue
        if _same_function(module, small, slices, sample):
            accepted.append(cut)
    return accepted


@torch.no_grad()
def _same_function(module: nn.Module, small: nn.Module, slices: Slices, sample: Tensor) -> bool:
    """Whether ``small`` computes the same as ``module`` with zeros in place of everything that was removed."""
    masked = copy.deepcopy(module).eval()
    for key, tensor in _tensors(masked).items():
        stays = torch.zeros(tensor.numel(), dtype=torch.bool)
        stays[slices[key].flatten()] = True
        tensor.data = torch.where(stays.reshape(tensor.shape), tensor.data, torch.zeros_like(tensor.data))
    try:
        expected, got = masked(sample), small.eval()(sample)
    except Exception as error:  # the user's forward may rely on the old width
        log.info("a removal does not fit the network (%s)", error)
        return False
    if got.shape != expected.shape or not bool(expected.isfinite().all()):
        return got.shape == expected.shape  # outputs that are not finite cannot be compared
    return bool((got - expected).abs().max() <= SAME * expected.abs().max() + SAME**2)


def _channels(group: tp.dependency.Group, names: Mapping[nn.Module, str], slopes: Mapping[str, Tensor]) -> Channels:
    count = len(group[0].idxs)
    weights, scales = [torch.zeros(count, 0)], [torch.zeros(count, 0)]
    gates = torch.zeros(count, next(iter(slopes.values())).shape[1] if slopes else 0, dtype=torch.float64)
    for item in group:
        layer = item.dep.target.module
        produces, weight = item.dep.handler in _OUT, getattr(layer, "weight", None)
        if weight is not None and (produces or isinstance(layer, _NORMS)):
            (weights if produces else scales).append(_by_channel(weight.detach(), item, count))
            for name in (f"{names[layer]}.weight", f"{names[layer]}.bias"):
                if name in slopes:
                    gates = gates + _by_channel(slopes[name].double(), item, count)
    path = names[group[0].dep.target.module]
    return Channels(path, torch.cat(weights, 1).double(), gates, torch.cat(scales, 1).double())


def _by_channel(values: Tensor, item: Any, count: int) -> Tensor:
    """The rows of a tensor that belong to the group's channels: (count, n)."""
    rows = values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)
    sums = torch.zeros(count, rows.shape[1], dtype=rows.dtype)
    return sums.index_add(0, torch.as_tensor(item.root_idxs), rows.cpu()[torch.as_tensor(item.idxs)])


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, including non-persistent buffers."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _cut(module: nn.Module, cuts: list[_Removal], sample: Tensor) -> tuple[nn.Module, Slices]:
    """Prune a copy of ``module``.

    During pruning every tensor holds its elements' flat indices instead of values. The remaining ones show which
    elements stayed, for any layer type.
    """
    small = copy.deepcopy(module).eval()
    graph = _graph(small, sample) if cuts else None
    old_tensors = {k: v.detach().clone() for k, v in _tensors(small).items()}
    for tensor in _tensors(small).values():
        tensor.data = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
    for cut in cuts:
        assert graph is not None  # without a graph there are no planned removals
        graph.get_pruning_group(small.get_submodule(cut.path), cut.handler, idxs=cut.gone).prune()
    slices = {k: v.detach().long() for k, v in _tensors(small).items()}
    for key, tensor in _tensors(small).items():
        tensor.data = old_tensors[key].flatten()[slices[key].flatten()].reshape(slices[key].shape)
    return small, slices
