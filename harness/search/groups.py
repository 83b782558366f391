"""Which trials may train side by side: those that differ only in numbers that lanes can carry."""

from __future__ import annotations

import json

from harness.recipe import Recipe

# What may differ between lanes; everything else is structure.
NUMBERS = ("train.lr", "train.momentum", "train.weight_decay", "seed")
SECTIONS = ("clip", "distill", "quant")


def in_lanes(name: str) -> bool:
    """May the leaf of this dotted name differ between lanes?"""
    section, _, leaf = name.partition(".")
    return name in NUMBERS or (section in SECTIONS and leaf not in ("", "kind"))


def lane_key(recipe: Recipe) -> str:
    """Equal for recipes that may train side by side."""
    return json.dumps({name: value for name, value in recipe.flat().items() if not in_lanes(name)}, sort_keys=True)
