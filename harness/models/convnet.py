"""A small strided convolutional network: each stage halves the image and doubles the channels."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from harness.models.layers import conv_norm, he_initialize, image_shape


def convnet(
    input_shape: tuple[int, ...], classes: int, width: int = 16, stages: int = 2, norm: str = "batch"
) -> nn.Module:
    """``stages`` of 3x3 convolution with stride 2, norm and ReLU; average over the image; linear.

    Args:
        width: channels of the first stage; stage i has ``width * 2**i``.
        norm: ``batch``, or ``none`` (the convolutions then have biases).
    """
    channels, _, _ = image_shape(input_shape)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(stages):
        outputs = width * 2**i
        block = conv_norm(channels, outputs, 3, 2, norm)
        block["relu"] = nn.ReLU()
        parts[f"stage{i + 1}"] = nn.Sequential(block)
        channels = outputs
    parts["pool"], parts["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    parts["head"] = nn.Linear(channels, classes)
    module = nn.Sequential(parts)
    he_initialize(module)
    return module
