"""Removal of channels from torchvision's networks: residual sums, depthwise convolutions with
squeeze-and-excitation, concatenation.

For each network and share it compares the smaller network's outputs with those of the network with the same
channels' parameters set to zero, and measures the exported file's size and latency (interleaved, one lab). Weights
are random, with batch norms different from their initial values, because removal does not depend on training.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torchvision
from torch import nn

from benchmarks.report import save
from harness.export.export import export
from harness.export.template import Templates
from harness.measure.bench import bench
from harness.measure.lab import Job
from harness.techniques import prune
from harness.train.fit import Trained
from harness.train.shrink import Channels, shrink

NETWORKS = ("resnet18", "mobilenet_v3_small", "densenet121")
SHARES = (0.0, 0.25, 0.5, 0.75)
SHAPE = (3, 64, 64)
ROUND_TO = 8  # channels; runtimes process them in blocks


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(weights=None, num_classes=10)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor, spread in ((m.weight.data, 0.5), (m.running_var, 0.5)):
                tensor.uniform_(1 - spread, 1 + spread)
            for tensor in (m.bias.data, m.running_mean):
                tensor.normal_(0, 0.1)
    return net.eval()


def without(net: nn.Module, share: float) -> tuple[nn.Module, float]:
    """The network without a share of its channels, and the largest difference of its outputs to the masked network's,
    relative to the largest logit."""

    def keep(channels: Channels) -> torch.Tensor:
        scores, now = channels.weights.norm(dim=1), torch.tensor(1.0)
        given = {"ratio": share, "at": 0.0, "end": 0.0, "round_to": ROUND_TO}
        numbers = {name: torch.tensor(float(value)) for name, value in given.items()}
        return prune.channel(scores, now, torch.tensor(float(len(scores))), **numbers).nonzero().flatten()

    small, slices, _ = shrink(net, SHAPE, keep)
    masked = copy.deepcopy(net)
    for name, p in masked.named_parameters():
        gone = torch.ones(p.numel(), dtype=torch.bool)
        gone[slices[name].flatten()] = False
        p.data.view(-1)[gone] = 0
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = small(x), masked(x)
    return small, float((ours - theirs).abs().max() / theirs.abs().max())


def main() -> None:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            net, templates, rows, paths = network(name), Templates(Path(folder) / "graphs"), {}, []
            for share in SHARES:
                small, difference = without(net, share)
                path = Path(folder) / f"{name}_{share}.onnx"
                export(Trained(small, None, False, [], {}), templates, path, SHAPE, (0.5,) * 3, (0.25,) * 3)
                paths.append(path)
                rows[str(share)] = {
                    "parameters": sum(p.numel() for p in small.parameters()),
                    "size_bytes": path.stat().st_size,
                    "largest_difference": difference,
                }
            timings = bench([Job(p) for p in paths], seconds=0.5).timings
            for share, timing in zip(rows, timings, strict=True):
                rows[share] |= {
                    "p50_ms": timing.p50_ms,
                    "p50_interval_ms": timing.p50_interval,
                    "ratio": timing.ratio,
                    "ratio_interval": timing.ratio_interval,
                    "verdict": timing.verdict,
                    "reasons": timing.reasons,
                }
            found[name] = rows
            print(name, rows, flush=True)
    save("removal", {"input": SHAPE, "round_to": ROUND_TO, **found})


if __name__ == "__main__":
    main()
