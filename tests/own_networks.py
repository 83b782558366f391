"""Networks of a user's own: attention, recurrence, and what cannot be exported."""

import torch
from torch import nn


class Encoder(nn.Module):
    """Rows of an image as tokens through ``nn.TransformerEncoder``."""

    def __init__(self, tokens: int, features: int, classes: int, width: int):
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        layer = nn.TransformerEncoderLayer(width, 2, 4 * width, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embed(x.squeeze(1)) + self.position).mean(1))


class Recurrent(nn.Module):
    """Rows of an image as a sequence through an LSTM or GRU."""

    def __init__(self, features: int, classes: int, width: int, kind: str):
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.rnn = {"LSTM": nn.LSTM, "GRU": nn.GRU}[kind](width, width, batch_first=True)
        self.hidden = nn.Linear(width, 2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found, _ = self.rnn(self.embed(x.squeeze(1)))
        return self.head(torch.relu(self.hidden(found[:, -1])))


class Branching(nn.Module):
    """Decides by its data, so that no fixed graph computes it."""

    def __init__(self, features: int, classes: int, width: int):
        super().__init__()
        self.first, self.second = nn.Linear(features, width), nn.Linear(features, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return self.head(self.first(x) if x.mean() > 0 else self.second(x))


def encoder(input_shape, classes, width=16):
    return Encoder(input_shape[1], input_shape[2], classes, width)


def recurrent(input_shape, classes, width=16, kind="LSTM"):
    return Recurrent(input_shape[2], classes, width, kind)


def branching(input_shape, classes, width=16):
    return Branching(input_shape[1] * input_shape[2], classes, width)
