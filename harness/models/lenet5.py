"""LeNet-5 as in Caffe, the network of Deep Compression (Han et al. 2016, arXiv:1510.00149, table 3).

    conv 5x5 (20) - max pool 2 - conv 5x5 (50) - max pool 2 - linear (500) - ReLU - linear (classes)

At width 1 and 28 x 28 inputs it has 431,080 parameters, as in the paper.
Differs from Caffe's: ReLU also after each convolution; for images smaller than 16 x 16 the convolutions are
padded to keep the size, since two unpadded 5x5 convolutions and poolings would leave no pixel.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from harness.models.layers import he_initialize, image_shape

_UNPADDED = 16  # smallest image that leaves a pixel: ((16 - 4) / 2 - 4) / 2 = 1


def lenet5(input_shape: tuple[int, ...], classes: int, width: float = 1.0) -> nn.Module:
    """``width`` multiplies the 20, 50 and 500 channels (rounded, at least one)."""
    channels, *size = image_shape(input_shape, smallest=4)
    first, second, third = (max(1, round(width * n)) for n in (20, 50, 500))
    padding = 0 if min(size) >= _UNPADDED else 2
    lost = 4 - 2 * padding
    height, width_left = (((side - lost) // 2 - lost) // 2 for side in size)
    module = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, first, 5, padding=padding),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(first, second, 5, padding=padding),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(second * height * width_left, third),
            relu3=nn.ReLU(),
            fc2=nn.Linear(third, classes),
        )
    )
    he_initialize(module)
    return module
