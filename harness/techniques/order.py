"""Order statistics that work under ``torch.vmap``: no branches on values, no conversion to Python numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def percentile(ascending: Tensor, share: Tensor, count: Tensor | None = None) -> Tensor:
    """The ``share``-quantile (0-d, in [0, 1]) of each row, linear between two neighbors.

    Equals ``torch.quantile``, which vmap cannot map over shares.

    ascending  (..., n) sorted rows
    count      0-d or (...): use only the first ``count`` values of a row (at least 1; default: all)
    """
    last = ascending.new_tensor(float(ascending.shape[-1])) - 1 if count is None else count - 1
    place = share * last
    low = torch.floor(place)
    high = torch.minimum(low + 1, last)
    shape = ascending.shape[:-1]
    most = ascending.shape[-1] - 1  # float32 rounds the places of rows beyond 2**24 values, perhaps past the end
    indices = [i.long().clamp(max=most).unsqueeze(-1).expand(*shape, 1) for i in (low, high)]
    ends = [ascending.gather(-1, i).squeeze(-1) for i in indices]
    return ends[0] + (place - low) * (ends[1] - ends[0])
