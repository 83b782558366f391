"""My own student: two branches over the image, added. Any torch.nn.Module will do."""

import torch
from torch import nn

from harness.models.add import Add


class MyNet(nn.Module):
    def __init__(self, channels: int, classes: int, width: int):
        super().__init__()
        self.fine = self._branch(channels, width, kernel=3)
        self.coarse = self._branch(channels, width, kernel=5)
        self.add = Add()  # a sum as a module: it is quantized too
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.mix = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width, classes)

    @staticmethod
    def _branch(channels: int, width: int, kernel: int) -> nn.Module:
        conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu(self.add(self.fine(x), self.coarse(x))))
        return self.head(self.relu(self.mix(x)).mean((2, 3)))


def my_net(input_shape: tuple[int, ...], classes: int, width: int = 16) -> nn.Module:
    """harness calls this with the data's shape; the other keys of `student:` arrive as keywords."""
    return MyNet(input_shape[0], classes, width)
