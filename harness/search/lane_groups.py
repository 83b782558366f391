"""Which trials may train side by side in lanes: those that differ only in numbers that may differ between lanes."""

from __future__ import annotations

import json

from harness.recipe import Recipe
from harness.techniques import CLIPS, DISTILLS, QUANTIZERS

# Leaves outside the techniques that may differ between lanes; everything else is structure.
NUMBERS = ("train.lr", "train.momentum", "train.weight_decay", "seed")
SECTIONS = {"clip": CLIPS, "distill": DISTILLS, "quant": QUANTIZERS}


def in_lanes(name: str) -> bool:
    """Whether the leaf of this dotted name may differ between lanes. Numeric options of the techniques may; text
    options and values of single layers may not."""
    section, _, leaf = name.partition(".")
    params = [m.options[leaf] for m in SECTIONS.get(section, {}).values() if leaf in m.options]
    return name in NUMBERS or (bool(params) and all(param.type in (int, float) for param in params))


def lane_key(recipe: Recipe) -> str:
    """Equal for recipes that may train side by side."""
    return json.dumps({name: value for name, value in recipe.flat().items() if not in_lanes(name)}, sort_keys=True)
