"""Parts shared by the convolutional families: a check of the input shape, a block, and the initialization."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def image_shape(input_shape: tuple[int, ...], smallest: int = 1) -> tuple[int, int, int]:
    """(channels, height, width).

    Raises:
        ValueError: the samples are no images, or smaller than ``smallest``.
    """
    if len(input_shape) != 3:
        raise ValueError(
            "needs images (channels, height, width), but a sample has the shape "
            f"{tuple(input_shape)}; use `mlp`, or pass the data as images"
        )
    channels, height, width = input_shape
    if min(height, width) < smallest:
        raise ValueError(f"needs images of at least {smallest} x {smallest}, but got {height} x {width}")
    return channels, height, width


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int, norm: str = "batch") -> OrderedDict[str, nn.Module]:
    """``conv`` (padded to keep the size at stride 1) and ``norm``; without a norm ``conv`` has a bias."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=norm == "none")
    return OrderedDict(conv=conv) if norm == "none" else OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs))


def he_initialize(module: nn.Module) -> None:
    """Initialize convolutions from a normal distribution of variance 2 / fan-out, biases with 0 (He et al. 2015,
    arXiv:1502.01852, sec. 2.2); linear layers keep torch's initialization."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
