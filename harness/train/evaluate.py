"""How good a student is while it trains."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.records import Score
from harness.train.rounding import used_ranges, used_weights
from harness.train.run import Run

SCORED_AT_ONCE = 1024


@torch.no_grad()
def score(run: Run, x: Tensor, y: Tensor) -> Score:
    """How good the student is on normalised samples as it is now (weights masked and rounded where those
    have begun). An answer that is not finite is wrong."""
    used, ranges, right, sure = used_weights(run), used_ranges(run), 0, 0.0
    for part, labels in zip(x.split(SCORED_AT_ONCE), y.split(SCORED_AT_ONCE), strict=True):
        seen, _ = run.plan.forward(used, run.state.buffers, ranges, part, False)
        logits = seen["logits"].float()
        finite = logits.isfinite().all(1)
        true = logits.softmax(1).gather(1, labels[:, None])[:, 0]
        right += int(((logits.argmax(1) == labels) & finite).sum())
        sure += float(true[finite].sum())
    return Score(right / len(y), sure / len(y))
