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


class Called(nn.Module):
    """One convolution called twice, with ``norms`` behind its calls: two of them or one, or the first's only."""

    def __init__(self, norms: str):
        super().__init__()
        self.norms = norms
        self.first = nn.Conv2d(1, 4, 3, stride=2)
        self.c = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.BatchNorm2d(4)
        if norms == "two":
            self.b2 = nn.BatchNorm2d(4)
        self.head = nn.Linear(36, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.b(self.c(torch.relu(self.first(x)))))
        x = self.c(x)
        x = torch.relu({"same": self.b, "two": getattr(self, "b2", None), "one": nn.Identity()}[self.norms](x))
        return self.head(x.flatten(1))


class TiedLayers(nn.Module):
    """Two convolutions of one weight, each with its norm, where ``norm``."""

    def __init__(self, norm: bool, bias: bool):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, stride=2)
        self.b, self.c = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.c.weight = self.b.weight
        if bias:
            self.c.bias = self.b.bias
        self.n1, self.n2 = (nn.BatchNorm2d(4) if norm else nn.Identity() for _ in range(2))
        self.head = nn.Linear(36, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.n1(self.b(torch.relu(self.first(x)))))
        return self.head(torch.relu(self.n2(self.c(x))).flatten(1))


class TwoNames(nn.Module):
    """One layer under two names; its second call reads what another layer reads too."""

    def __init__(self):
        super().__init__()
        self.first, self.a = nn.Linear(64, 16), nn.Linear(16, 16)
        self.again = self.a
        self.other, self.head = nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(torch.relu(self.first(x.flatten(1)))))
        return self.head(3 * torch.relu(self.again(x)) + torch.relu(self.other(x)))


class Autoencoder(nn.Module):
    """The weight of a layer, and that weight transposed: a classifier behind what it rebuilds."""

    def __init__(self):
        super().__init__()
        self.encode, self.head = nn.Linear(64, 8), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        code = torch.relu(self.encode(x.flatten(1)))
        return self.head(nn.functional.linear(code, self.encode.weight.t()))


class Words(nn.Module):
    """An embedding whose weight is the last layer's too."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        codes = (x.flatten(1) > 0).long() + 3
        return self.head(torch.relu(self.mix(self.embed(codes).mean(1))))


class Parametrized(nn.Module):
    """A layer whose weight is computed from other parameters."""

    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(64, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.first(x.flatten(1))))


def tied(input_shape, classes):
    return TiedLayers(norm=True, bias=False)


TIED = {
    "called, one norm": lambda: Called("same"),
    "called, two norms": lambda: Called("two"),
    "called, a norm once": lambda: Called("one"),
    "tied": lambda: TiedLayers(norm=False, bias=True),
    "tied, two norms": lambda: TiedLayers(norm=True, bias=False),
    "two names": TwoNames,
    "transposed": Autoencoder,
    "embedding": Words,
    "parametrized": Parametrized,
}


class Counting(nn.Module):
    """Assigns a tensor to itself in training; its first layer is frozen."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.stem, self.head = nn.Linear(features, 8), nn.Linear(8, classes)
        self.register_buffer("mean", torch.zeros(8))
        self.assigns = False
        self.stem.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x.flatten(1)))
        if self.training and self.assigns:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.head(x - self.mean)


def counting(input_shape, classes, assigns=False):
    module = Counting(input_shape[1] * input_shape[2], classes)
    module.assigns = assigns
    return module
