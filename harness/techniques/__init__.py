"""The four techniques and the optimisers: literal registries of pure functions.

A new method = one function in the module beside this one + one line here. Importing this
package imports no torch; ``Method.load`` does, in the process that trains.
"""

from __future__ import annotations

from harness.methods import Method, Param

_HERE = "harness.techniques"

CLIPS = {
    "none": Method(f"{_HERE}.clip:none", off={}),
    "norm": Method(f"{_HERE}.clip:norm", {"threshold": Param(float, low=0, low_open=True)}),
    "value": Method(f"{_HERE}.clip:value", {"threshold": Param(float, low=0, low_open=True)}),
}

_RATIO = Param(float, low=0, high=1, high_open=True, doc="share removed")

PRUNERS = {
    "none": Method(f"{_HERE}.prune:none", off={}),
    "channel": Method(
        f"{_HERE}.prune:channel",
        {
            "ratio": _RATIO,
            "at": Param(float, 0.25, low=0, high=1, doc="share of the epochs trained before removal"),
            "round_to": Param(int, 1, low=1, doc="kept channels are a multiple of this"),
        },
        off={"ratio": 0.0},
    ),
    "weight": Method(
        f"{_HERE}.prune:weight",
        {
            "ratio": _RATIO,
            "start": Param(float, 0.1, low=0, high=1, doc="share of the epochs before pruning begins"),
            "end": Param(float, 0.6, low=0, high=1, doc="share of the epochs when the ratio is reached"),
        },
        off={"ratio": 0.0},
        structure_known="after",
    ),
}

QUANTISERS = {
    "uniform": Method(
        f"{_HERE}.quantize:uniform",
        {
            "bits": Param(int, choices=(2, 3, 4, 5, 6, 7, 8, 32)),
            "start": Param(float, 0.5, low=0, high=1, doc="share of the epochs before weights are rounded"),
        },
        off={"bits": 32},
    ),
}

DISTILLS = {
    "none": Method(f"{_HERE}.distill:none", off={}),
    "logits": Method(
        f"{_HERE}.distill:logits",
        {
            "weight": Param(float, low=0, high=1),
            "temperature": Param(float, 4.0, low=0, low_open=True),
        },
        off={"weight": 0.0},
        needs=frozenset({"logits"}),
    ),
}
