"""Accuracy of a student during training."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.train.rounding import used_ranges, used_weights
from harness.train.student import Run

SCORED_AT_ONCE = 1024  # samples per batch; bounds the memory


@torch.no_grad()
def accuracy(run: Run, x: Tensor, y: Tensor) -> float:
    """Share of normalized samples that the student classifies correctly in its current state.

    Weights are masked and rounded if pruning and quantization have started. A non-finite output counts as wrong.
    """
    used, ranges, right = used_weights(run), used_ranges(run), 0
    for part, labels in zip(x.split(SCORED_AT_ONCE), y.split(SCORED_AT_ONCE), strict=True):
        quantities, _ = run.plan.forward(used, run.state.buffers, ranges, part, False)
        logits = quantities["logits"]
        right += int(((logits.argmax(1) == labels) & logits.isfinite().all(1)).sum())
    return right / len(y)
