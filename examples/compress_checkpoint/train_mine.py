"""Stands for the network I already have: trained by my own loop, saved as safetensors."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from harness.tasks.digits import digits

WEIGHTS = Path(__file__).with_name("mine.safetensors")


def my_trained_net(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (input_shape[1] // 4) * (input_shape[2] // 4), classes),
    )


def main(epochs: int = 15) -> None:
    torch.manual_seed(0)
    data = digits()
    net = my_trained_net(data.input_shape, data.classes)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)  # one channel
    x, y = (data.train[0] - mean) / std, data.train[1]
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    held_x, held_y = data.validation
    accuracy = (net((held_x - mean) / std).argmax(1) == held_y).float().mean().item()
    save_file(net.state_dict(), WEIGHTS)
    print(f"validation accuracy {accuracy:.3f}, saved {WEIGHTS} ({WEIGHTS.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
