"""harness: search for models that are small and fast enough to deploy, on real files."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "load": "harness.deploy.packed:load",
    "load_recipe": "harness.space:load_recipe",
    "load_space": "harness.space:load_space",
    "train": "harness.production:train",
}


def __getattr__(name: str) -> Any:
    """Public functions, imported on first use: `import harness` costs nothing and no torch."""
    if name in _LAZY:
        from harness.methods import load_target

        return load_target(_LAZY[name])
    raise AttributeError(f"module 'harness' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
