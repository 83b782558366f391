"""Remove channels physically: smaller tensors, the same network function.

torch-pruning's dependency graph (Fang et al. 2023, arXiv:2301.12900) tells which layers share a
channel through residual sums, batch norms, depthwise convolutions and flattening. We decide what
goes by our own scores and only let it cut.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from harness.errors import TrialError

Slices = dict[str, Tensor]  # state_dict key -> flat indices of what stays, shaped like the result
Kept = dict[str, tuple[int, int]]  # layer path -> (channels kept, channels before)

_WEIGHTED = (nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_OUT = (tp.prune_conv_out_channels, tp.prune_linear_out_channels, tp.prune_depthwise_conv_out_channels)
_IN = (tp.prune_conv_in_channels, tp.prune_linear_in_channels)


@dataclass(frozen=True)
class Channels:
    """A group of coupled channels: the path of a layer that produces them, the weights (C, n) of all
    filters that do, their gradients (C, n; zeros where none were given), batch norms' gammas (C, k)."""

    path: str
    weights: Tensor
    gradients: Tensor
    scales: Tensor


def shrink(
    module: nn.Module,
    input_shape: tuple[int, ...],
    keep: Callable[[Channels], Tensor],
    gradients: Mapping[str, Tensor] | None = None,
) -> tuple[nn.Module, Slices, Kept]:
    """Copy ``module`` without the channels that ``keep`` leaves out.

    Args:
        module: on the CPU; left as it is.
        input_shape: of one sample, for tracing.
        keep: a group of coupled channels -> indices that stay, ascending and not empty.
        gradients: of the module's parameters, by name.
    Returns:
        The smaller module; for every tensor of its state_dict the flat indices into the old
        tensor (so that an optimiser's moments can be cut alike); kept and former counts.
    Raises:
        TrialError: channels should have gone, but a layer did not get smaller.
    """
    small = copy.deepcopy(module).eval()
    sample = torch.zeros(1, *input_shape, dtype=next(small.parameters()).dtype)
    graph = tp.DependencyGraph().build_dependency(small, sample)
    names, cuts = {m: name for name, m in small.named_modules()}, []
    for group in list(graph.get_all_groups(root_module_types=list(_WEIGHTED))):
        if not any(item.dep.handler in _IN for item in group):
            continue  # nothing consumes these channels: they are the network's outputs
        channels = _channels(group, names, gradients or {})
        kept = keep(channels)
        gone = sorted(set(range(len(channels.weights))) - set(kept.tolist()))
        if gone:
            cuts.append((group[0].dep.target.module, group[0].dep.handler, gone))
    slices = _cut(small, graph, cuts)
    before = {name: m.weight.shape[0] for name, m in module.named_modules() if isinstance(m, _WEIGHTED)}
    after = {name: m.weight.shape[0] for name, m in small.named_modules() if isinstance(m, _WEIGHTED)}
    if cuts and sum(after.values()) >= sum(before.values()):
        raise TrialError(f"channels were to be removed from {len(cuts)} groups of layers, but none got smaller")
    return small.train(module.training), slices, {k: (after[k], n) for k, n in before.items()}


def _channels(group: tp.dependency.Group, names: Mapping[nn.Module, str], gradients: Mapping[str, Tensor]) -> Channels:
    count = len(group[0].idxs)
    weights, slopes, scales = [torch.zeros(count, 0)], [torch.zeros(count, 0)], [torch.zeros(count, 0)]
    for item in group:
        layer = item.dep.target.module
        if item.dep.handler in _OUT:
            found = layer.weight.detach()
            weights.append(_by_channel(found, item, count))
            slopes.append(_by_channel(gradients.get(f"{names[layer]}.weight", torch.zeros_like(found)), item, count))
        elif isinstance(layer, _NORMS) and layer.weight is not None:
            scales.append(_by_channel(layer.weight.detach(), item, count))
    path = names[group[0].dep.target.module]
    return Channels(path, *(torch.cat([p.double() for p in parts], 1) for parts in (weights, slopes, scales)))


def _by_channel(values: Tensor, item: Any, count: int) -> Tensor:
    """The rows of a tensor that belong to the group's channels, (count, n)."""
    rows = values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)
    found = torch.zeros(count, rows.shape[1], dtype=rows.dtype)
    return found.index_add(0, torch.as_tensor(item.root_idxs), rows.cpu()[torch.as_tensor(item.idxs)])


def _cut(
    small: nn.Module, graph: tp.DependencyGraph, cuts: list[tuple[nn.Module, Callable[..., nn.Module], list[int]]]
) -> Slices:
    """Prune ``small`` in place. While it is cut, every tensor holds its own indices instead of
    values: what is left afterwards says what stayed, for any layer type."""
    old = {k: v.clone() for k, v in small.state_dict().items()}
    tensors = {**dict(small.named_parameters()), **dict(small.named_buffers())}
    for tensor in tensors.values():
        tensor.data = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
    for module, handler, gone in cuts:
        graph.get_pruning_group(module, handler, idxs=gone).prune()
    slices = {k: v.long() for k, v in small.state_dict().items()}
    for key, tensor in {**dict(small.named_parameters()), **dict(small.named_buffers())}.items():
        tensor.data = old[key].flatten()[slices[key].flatten()].reshape(slices[key].shape)
    return slices
