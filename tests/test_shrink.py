"""Removal: the small network computes what the masked one does; slices fit every tensor."""

import pytest
import torch
import torchvision
from torch import nn

from harness.models.add import Add
from harness.train.shrink import shrink


class Residual(nn.Module):
    """Two blocks' worth of trouble: a strided shortcut, batch norm, a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.one, self.bn1 = nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.two, self.bn2 = nn.Conv2d(12, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12)
        self.short, self.add = nn.Conv2d(8, 12, 1, 2), Add()
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))

    def forward(self, x):
        x = self.stem(x)
        y = self.bn2(self.two(torch.relu(self.bn1(self.one(x)))))
        return self.head(self.add(y, self.short(x)))


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 64, 5),
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 5))


NETWORKS = {"residual": Residual, "depthwise": depthwise, "mlp": mlp}


def random_network(name: str) -> nn.Module:
    torch.manual_seed(1)
    net = NETWORKS[name]()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor in (m.weight.data, m.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (m.bias.data, m.running_mean):
                tensor.normal_()
    return net.eval()


def keep_share(share: float):
    def keep(channels):
        scores = channels.weights.norm(dim=1)
        return scores.argsort(descending=True)[: max(1, round(share * len(scores)))].sort().values

    return keep


def masked(net: nn.Module, slices: dict[str, torch.Tensor]) -> None:
    """Zero every parameter element that the smaller network does not have (batch norm's too)."""
    for name, p in net.named_parameters():
        gone = torch.ones(p.numel(), dtype=torch.bool)
        gone[slices[name].flatten()] = False
        p.data.view(-1)[gone] = 0


@pytest.mark.parametrize("share", [0.75, 0.5, 0.1])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_smaller_equals_masked(name, share):
    net = random_network(name)
    small, slices, kept = shrink(net, (1, 8, 8), keep_share(share))
    masked(net, slices)
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(small(x), net(x), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
    last = list(kept.values())[-1]
    assert last == (5, 5)  # the classes stay


def test_slices_cut_other_tensors_alike():
    net = random_network("residual")
    small, slices, _ = shrink(net, (1, 8, 8), keep_share(0.5))
    for key, value in net.state_dict().items():
        cut = value.flatten()[slices[key].flatten()].reshape(slices[key].shape)
        assert torch.equal(cut, small.state_dict()[key])


def test_keeping_all_changes_nothing_and_the_input_is_left_alone():
    net = random_network("residual")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    small, _, kept = shrink(net, (1, 8, 8), lambda channels: torch.arange(len(channels.weights)))
    assert all(torch.equal(v, before[k]) for k, v in small.state_dict().items())
    assert all(a == b for a, b in kept.values())
    shrink(net, (1, 8, 8), keep_share(0.5))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_extreme_ratio_still_removes():
    """A ratio of 0.99 on few channels once removed nothing at all in torch-pruning's own pruner."""
    net = random_network("residual")
    _, _, kept = shrink(net, (1, 8, 8), keep_share(0.01))
    assert [kept["stem.0"], kept["one"]] == [(1, 8), (1, 12)]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_networks_of_torchvision_shrink(name):
    """Residual sums, depthwise convolutions with squeeze-and-excitation, concatenation."""
    torch.manual_seed(2)
    net = getattr(torchvision.models, name)(weights=None, num_classes=7).eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor in (m.weight.data, m.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (m.bias.data, m.running_mean):
                tensor.normal_(0, 0.1)
    small, slices, kept = shrink(net, (3, 32, 32), keep_share(0.5))
    masked(net, slices)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours, theirs = small(x), net(x)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert sum(p.numel() for p in small.parameters()) < 0.3 * sum(p.numel() for p in net.parameters())
    assert list(kept.values())[-1] == (7, 7)
