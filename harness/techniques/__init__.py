"""Clipping, pruning, quantization, distillation and the optimizers: pure functions, and their registries.

Input: tensors and numbers. Output: tensors. No function uses a module, a recipe or a device. A new method is one
function in a module of this package and one line here. Importing this package does not import torch; ``Method.load``
does, in the process that trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from harness.methods import FLOAT_BITS, ClipMethod, DistillMethod, Param, PruneMethod, QuantMethod

_HERE = "harness.techniques"

_THRESHOLD = Param(float, low=0, low_open=True, doc="the bound; of `agc`: a share of a unit's weight norm")

CLIPS = {
    "none": ClipMethod(f"{_HERE}.clip:none", off={}),
    "norm": ClipMethod(f"{_HERE}.clip:norm", {"threshold": _THRESHOLD}),
    "value": ClipMethod(f"{_HERE}.clip:value", {"threshold": _THRESHOLD}),
    "agc": ClipMethod(
        f"{_HERE}.clip:agc",
        {"threshold": _THRESHOLD, "least": Param(float, 1e-3, low=0, low_open=True, doc="floor of a unit's norm")},
        on="gradients",
    ),
    "auto": ClipMethod(
        f"{_HERE}.clip:auto",
        {"percentile": Param(float, 10.0, low=0, high=100, doc="of the gradient norms so far; 100: off")},
        off={"percentile": 100.0},
        carries={"norms": (1024, math.inf), "seen": (0, 0.0)},
    ),
    "weight_range": ClipMethod(f"{_HERE}.clip:weight_range", {"threshold": _THRESHOLD}, on="weights"),
}

_RATIO = Param(float, low=0, high=1, high_open=True, by_layer=True, shapes=True, doc="share removed")
_SHARE = Param(float, low=0, high=1, high_open=True, by_layer=True, doc="share of single weights removed")
_ROUND_TO = Param(int, 1, low=1, shapes=True, doc="kept channels are a multiple of this")
_SCORE = Param(str, "l2", choices=("l1", "l2", "bn_scale", "taylor", "random"), doc="how channels are ranked")
_SCOPE = Param(str, "layer", choices=("layer", "global"), doc="rank scores within a layer, or over all layers")
_PENALTY = {
    "regularize": Param(str, "none", choices=("none", "l1", "l2"), doc="a penalty in the loss while training"),
    "on": Param(str, "weights", choices=("weights", "scales"), doc="penalized: layer weights, or batch norm scales"),
    "strength": Param(float, 1e-4, low=0, doc="factor of the penalty"),
}

PRUNERS = {
    "none": PruneMethod(f"{_HERE}.prune:none", {}, _PENALTY, off={"regularize": "none"}),
    "channel": PruneMethod(
        f"{_HERE}.prune:channel",
        {
            "ratio": _RATIO,
            "at": Param(float, 0.25, low=0, high=1, doc="share of the epochs trained before removal"),
            "end": Param(float, 0.0, low=0, high=1, doc="share of epochs at the last removal; up to `at`: one shot"),
            "round_to": _ROUND_TO,
        },
        {"score": _SCORE, "scope": replace(_SCOPE, shapes=True), **_PENALTY},
        off={"ratio": 0.0, "regularize": "none"},
        after_where={"scope": "global"},
    ),
    "rollback": PruneMethod(
        f"{_HERE}.prune:rollback",
        {
            "ratio": Param(float, low=0, high=1, high_open=True, shapes=True, doc="target share removed"),
            "round_to": _ROUND_TO,
        },
        {
            "at": Param(float, 0.25, low=0, high=1, doc="share of the epochs trained before the first attempt"),
            "of": Param(
                str, "channels", choices=("channels", "weights", "both"), shapes=True, doc="what an attempt removes"
            ),
            "step": Param(float, 0.1, low=0, high=1, low_open=True, doc="share that an attempt removes"),
            "attempts": Param(int, 1, low=1, doc="attempts that may fail in an epoch"),
            "tolerance": Param(float, 0.01, low=0, high=1, doc="training accuracy that an epoch's attempts may lose"),
            "score": _SCORE,
            **_PENALTY,
        },
        off={"ratio": 0.0, "regularize": "none"},
        structure_known="after",
        graph_known="after",
    ),
    "weight": PruneMethod(
        f"{_HERE}.prune:weight",
        {
            "ratio": _SHARE,
            "start": Param(float, 0.1, low=0, high=1, doc="share of the epochs before pruning begins"),
            "end": Param(float, 0.6, low=0, high=1, doc="share of the epochs when the ratio is reached"),
        },
        {"scope": _SCOPE, **_PENALTY},
        off={"ratio": 0.0, "regularize": "none"},
        structure_known="after",
    ),
}

_ROUNDING = {
    "start": Param(float, 0.5, low=0, high=1, doc="share of the epochs before weights are rounded; 1: after training"),
    "activation_bits": Param(int, 8, low=2, high=8, shapes=True, doc="of the values between layers"),
    "activations": Param(str, "range", choices=("range", "pact"), doc="ranges: observed and frozen, or trained"),
}
_SCALED = Param(bool, True, doc="keep the weights' magnitude; false: as in the paper")


def _bits(*choices: int) -> Param:
    doc = f"of a weight; {FLOAT_BITS}: not rounded"
    return Param(int, choices=(*choices, FLOAT_BITS), by_layer=True, shapes=True, doc=doc)


QUANTIZERS = {
    "uniform": QuantMethod(
        f"{_HERE}.quantize:uniform",
        {
            "bits": _bits(1, 2, 3, 4, 5, 6, 7, 8),
            "range": Param(str, "max", choices=("max", "percentile", "mse"), doc="where the grid ends"),
            "percentile": Param(float, 99.9, low=0, high=100, low_open=True, doc="of |w|, for range: percentile"),
        },
        _ROUNDING,
        off={"bits": FLOAT_BITS},
    ),
    "lsq": QuantMethod(
        f"{_HERE}.quantize:lsq",
        {"bits": _bits(1, 2, 3, 4, 5, 6, 7, 8)},
        _ROUNDING,
        off={"bits": FLOAT_BITS},
        learns=f"{_HERE}.quantize:lsq_begin",
    ),
    "dorefa": QuantMethod(
        f"{_HERE}.quantize:dorefa",
        {"bits": _bits(1, 2, 3, 4, 5, 6, 7, 8), "scaled": _SCALED},
        _ROUNDING,
        off={"bits": FLOAT_BITS},
    ),
    "pact": QuantMethod(  # the pair in PACT's paper: DoReFa's weights, trained activation ranges
        f"{_HERE}.quantize:dorefa",
        {"bits": _bits(1, 2, 3, 4, 5, 6, 7, 8), "scaled": _SCALED},
        {**_ROUNDING, "activations": replace(_ROUNDING["activations"], default="pact")},
        off={"bits": FLOAT_BITS},
    ),
    "standardized": QuantMethod(
        f"{_HERE}.quantize:standardized",
        {
            "bits": _bits(1, 2, 3, 4, 5, 6, 7, 8),
            "range": Param(float, 3.0, low=0, low_open=True, doc="in deviations; values further out are clipped"),
        },
        _ROUNDING,
        off={"bits": FLOAT_BITS},
    ),
    "power_of_two": QuantMethod(
        f"{_HERE}.quantize:power_of_two", {"bits": _bits(2, 3, 4)}, _ROUNDING, off={"bits": FLOAT_BITS}
    ),
}

_WEIGHT = Param(float, low=0, high=1, doc="of the teacher's term; 0: labels alone, 1: teacher alone")
_TEMPERATURE = Param(float, 4.0, low=0, low_open=True, doc="softens both distributions")
_FROM_TEACHER = Param(bool, False, doc="start from the teacher's weights")
_SCHEDULE = {
    "schedule": Param(str, "constant", choices=("constant", "linear"), doc="linear: the weight falls to 0"),
    "start": Param(
        float, 0.0, low=0, high=1, doc="share of the epochs with the labels alone, before the teacher's term"
    ),
}


def _distilling(name: str, *needs: str, loop: Mapping[str, Param] | None = None, **params: Param) -> DistillMethod:
    loop = {**_SCHEDULE, **({"from_teacher": _FROM_TEACHER} if "parameters" in needs else {}), **(loop or {})}
    target = f"{_HERE}.distill:{name}"
    return DistillMethod(target, {"weight": _WEIGHT, **params}, loop, off={"weight": 0.0}, needs=frozenset(needs))


DISTILLS = {
    "none": DistillMethod(f"{_HERE}.distill:none", off={}),
    "logits": _distilling("logits", "logits", temperature=_TEMPERATURE),
    "labels": _distilling("labels", "logits"),
    "dkd": _distilling(
        "dkd",
        "logits",
        temperature=_TEMPERATURE,
        alpha=Param(float, 1.0, low=0, doc="of the term of the target class"),
        beta=Param(float, 8.0, low=0, doc="of the term of the other classes"),
        loop={"warmup": Param(float, 20 / 240, low=0, high=1, doc="share of the epochs in which its term rises")},
    ),
    "copy": DistillMethod(
        f"{_HERE}.distill:copy",
        {"weight": _WEIGHT, "strength": Param(float, 0.01, low=0, doc="factor of the sum of absolute differences")},
        {**_SCHEDULE, "from_teacher": _FROM_TEACHER},
        off={"weight": 0.0, "strength": 0.0},
        needs=frozenset(("logits", "parameters")),
    ),
    "hint": _distilling("hint", "embedding"),
    "attention": _distilling("attention", "map", beta=Param(float, 1000.0, low=0, low_open=True, doc="of its term")),
    "jacobian": _distilling(
        "jacobian", "input_gradient", beta=Param(float, 1.0, low=0, low_open=True, doc="of its term")
    ),
    "gradient": _distilling(
        "gradient",
        "parameters",
        "gradient",
        threshold=Param(float, 5.0, low=0, low_open=True, doc="bound on the teacher's gradient, each element"),
        added=Param(bool, False, doc="added to the student's own gradient instead of blended with it"),
    ),
    "parameter": _distilling(
        "parameter", "parameters", strength=Param(float, 0.01, low=0, doc="factor of the sum of absolute differences")
    ),
}
