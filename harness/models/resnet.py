"""CIFAR-style residual network (He et al. 2016, arXiv:1512.03385, sec. 4.2): depth 6n + 2.

A 3x3 convolution, three stages of n blocks with width, 2 * width and 4 * width channels (the second and
third stage halve the image), average pooling, a linear layer. A block is two 3x3 convolutions and a sum.
Differs from the paper: where the shape changes, the shortcut is a 1x1 convolution with norm (the paper's
option B; its sec. 4.2 uses A, padding with zeros), so that channels can be removed on both branches.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from harness.models.add import Add
from harness.models.layers import conv_norm, he_initialize, image_shape


class Block(nn.Module):
    """``relu(body(x) + shortcut(x))``."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        first, second = conv_norm(inputs, outputs, 3, stride), conv_norm(outputs, outputs, 3, 1)
        self.body = nn.Sequential(
            OrderedDict(
                conv1=first["conv"], norm1=first["norm"], relu=nn.ReLU(), conv2=second["conv"], norm2=second["norm"]
            )
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(conv_norm(inputs, outputs, 1, stride))
        self.add = Add()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.add(self.body(x), self.shortcut(x)))


def resnet(input_shape: tuple[int, ...], classes: int, depth: int = 20, width: int = 16) -> nn.Module:
    """``depth`` 6n + 2 weighted layers, ``width`` channels in the first stage (the paper's: 16)."""
    channels, _, _ = image_shape(input_shape)
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth must be 6n + 2 (8, 14, 20, ...), but got {depth}")
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(OrderedDict(**conv_norm(channels, width, 3, 1), relu=nn.ReLU()))
    )
    inputs = width
    for stage in range(3):
        outputs = width * 2**stage
        blocks = []
        for i in range((depth - 2) // 6):
            blocks.append(Block(inputs, outputs, stride=2 if stage and i == 0 else 1))
            inputs = outputs
        parts[f"stage{stage + 1}"] = nn.Sequential(*blocks)
    parts["pool"], parts["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    parts["head"] = nn.Linear(inputs, classes)
    module = nn.Sequential(parts)
    he_initialize(module)
    return module
