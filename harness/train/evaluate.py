"""How good a student is while it trains."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.train.rounding import used_ranges, used_weights
from harness.train.student import Run

SCORED_AT_ONCE = 1024


@torch.no_grad()
def accuracy(run: Run, x: Tensor, y: Tensor) -> float:
    """Share of normalized samples that the student gets right as it is now (weights masked and
    rounded where those have begun). An answer that is not finite is wrong."""
    used, ranges, right = used_weights(run), used_ranges(run), 0
    for part, labels in zip(x.split(SCORED_AT_ONCE), y.split(SCORED_AT_ONCE), strict=True):
        seen, _ = run.plan.forward(used, run.state.buffers, ranges, part, False)
        logits = seen["logits"]
        right += int(((logits.argmax(1) == labels) & logits.isfinite().all(1)).sum())
    return right / len(y)
