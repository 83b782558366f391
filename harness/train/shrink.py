"""Remove channels physically: smaller tensors, the same network function.

torch-pruning's dependency graph (Fang et al. 2023, arXiv:2301.12900) tells which layers share a
channel through residual sums, batch norms, depthwise convolutions and flattening. We decide what
goes by our own scores and only let it cut.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch_pruning as tp
from torch import Tensor, nn

from harness.errors import TrialError

Slices = dict[str, Tensor]  # state_dict key -> flat indices of what stays, shaped like the result
Kept = dict[str, tuple[int, int]]  # layer path -> (channels kept, channels before)

_WEIGHTED = (nn.Conv2d, nn.Linear)
_OUT = (tp.prune_conv_out_channels, tp.prune_linear_out_channels, tp.prune_depthwise_conv_out_channels)
_IN = (tp.prune_conv_in_channels, tp.prune_linear_in_channels)


def shrink(
    module: nn.Module, input_shape: tuple[int, ...], keep: Callable[[Tensor], Tensor]
) -> tuple[nn.Module, Slices, Kept]:
    """Copy ``module`` without the channels that ``keep`` leaves out.

    Args:
        module: on the CPU; left as it is.
        input_shape: of one sample, for tracing.
        keep: scores (C,) of a group of coupled channels, the Euclidean norm of the filters that
            produce them -> indices that stay, ascending and not empty.
    Returns:
        The smaller module; for every tensor of its state_dict the flat indices into the old
        tensor (so that an optimiser's moments can be cut alike); kept and former counts.
    Raises:
        TrialError: channels should have gone, but a layer did not get smaller.
    """
    small = copy.deepcopy(module).eval()
    sample = torch.zeros(1, *input_shape, dtype=next(small.parameters()).dtype)
    graph = tp.DependencyGraph().build_dependency(small, sample)
    cuts = []
    for group in list(graph.get_all_groups(root_module_types=list(_WEIGHTED))):
        if not any(item.dep.handler in _IN for item in group):
            continue  # nothing consumes these channels: they are the network's outputs
        scores = _scores(group)
        kept = keep(scores)
        gone = sorted(set(range(len(scores))) - set(kept.tolist()))
        if gone:
            cuts.append((group[0].dep.target.module, group[0].dep.handler, gone))
    slices = _cut(small, graph, cuts)
    before = {name: m.weight.shape[0] for name, m in module.named_modules() if isinstance(m, _WEIGHTED)}
    after = {name: m.weight.shape[0] for name, m in small.named_modules() if isinstance(m, _WEIGHTED)}
    if cuts and sum(after.values()) >= sum(before.values()):
        raise TrialError(f"channels were to be removed from {len(cuts)} groups of layers, but none got smaller")
    return small.train(module.training), slices, {k: (after[k], n) for k, n in before.items()}


def _scores(group: tp.dependency.Group) -> Tensor:
    scores = torch.zeros(len(group[0].idxs), dtype=torch.float64)
    for item in group:
        if item.dep.handler in _OUT:
            norms = item.dep.target.module.weight.detach().flatten(1).square().sum(1).double()
            scores.index_add_(0, torch.as_tensor(item.root_idxs), norms[torch.as_tensor(item.idxs)])
    return scores.sqrt()


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
