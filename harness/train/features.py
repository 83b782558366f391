"""Quantities inside student and teacher that distillation methods compare.

logits          (N, C)
embedding       (N, F), input of the last layer
map             the last feature map: (N, C, H, W) of the student; of the teacher its attention (N, H, W), the sum of
                squares over channels
input_gradient  gradient of each sample's cross-entropy with respect to x, in x's shape
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from harness.errors import SpaceError
from harness.train.forward import Tensors, Watch
from harness.train.quantization_points import at_points, owners, watched
from harness.train.step import input_gradient

AT_ONCE = 512
PER_SAMPLE = ("logits", "embedding", "map", "input_gradient")


def watch_of(module: nn.Module, needs: Collection[str], sample: Tensor, where: str) -> Watch:
    """The modules at whose inputs the quantities in ``needs`` are read.

    Args:
        sample: (1, ...), to trace the network.
        where: ``student`` or ``teacher``, for messages.
    Raises:
        SpaceError: the network has no such module.
    """
    watch = {}
    if "embedding" in needs:
        watch["embedding"] = list(owners(module))[-1]
        if not isinstance(module.get_submodule(watch["embedding"]), nn.Linear):
            raise SpaceError("distill.kind", f"'hint' needs a {where} whose last layer is linear")
    if "map" in needs:
        maps: list[str] = []

        def note(point: str, x: Tensor) -> Tensor:
            if x.dim() == 4 and x.shape[2] * x.shape[3] > 1:
                maps.append(point)
            return x

        with torch.no_grad(), at_points(module.eval(), note):
            module(sample)
        if not maps:
            raise SpaceError("distill.kind", f"'attention' needs feature maps, but the {where} has none")
        path = maps[-1]
        watch["map"] = path if path in dict(module.named_modules()) else path.rpartition(".")[0]
    return watch


def quantity(name: str, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The teacher's quantity ``name`` (see the module's docstring) for normalized x (N, ...), in eval mode."""
    module.eval()
    watch = watch_of(module, (name,), x[:1], "teacher")
    parts = [_part(name, module, watch, *part) for part in zip(x.split(AT_ONCE), y.split(AT_ONCE), strict=True)]
    return torch.cat(parts)


def _part(name: str, module: nn.Module, watch: Watch, x: Tensor, y: Tensor) -> Tensor:
    if name == "input_gradient":
        x = x.detach().requires_grad_()
        return input_gradient(module(x), y, x)
    with torch.no_grad(), watched(module, watch) as watched_inputs:
        logits = module(x)
    quantities: Tensors = {"logits": logits, **watched_inputs}
    return quantities[name].square().sum(1) if name == "map" else quantities[name]
