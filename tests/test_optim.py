"""Optimizers equal torch.optim's over many steps, in float64."""

import math

import pytest
import torch

from harness.techniques import optimizers as optim


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.9, 0.999), weight_decay=0.01)),
    ],
)
def test_equals_torch(name, build):
    torch.manual_seed(0)
    start = torch.randn(15, dtype=torch.float64)
    theirs = start.clone().requires_grad_()
    optimizer = build([theirs])
    ours, state = start, optim.init(name, start)
    settings = {
        k: torch.tensor(v, dtype=torch.float64) for k, v in (("lr", 0.1), ("momentum", 0.9), ("weight_decay", 0.01))
    }
    for step in range(1, 21):
        theirs.grad = torch.randn_like(start)
        optimizer.step()
        ours, state = optim.OPTIMIZERS[name](
            ours, theirs.grad.clone(), state, step=torch.tensor(float(step), dtype=torch.float64), **settings
        )
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-10, atol=1e-12)


def test_cosine_factor_has_its_known_values():
    assert optim.learning_rate_factor("cosine", 0.0) == 1.0
    assert optim.learning_rate_factor("cosine", 0.5) == pytest.approx(0.5)
    assert optim.learning_rate_factor("cosine", 1 / 3) == pytest.approx(0.75)
    assert optim.learning_rate_factor("constant", 0.9) == 1.0
    assert not math.isnan(optim.learning_rate_factor("cosine", 1.0))
