"""harness: search for models that are small and fast enough to deploy, on real files."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_LAZY = {  # their types are in __init__.pyi, which only type checkers read
    "Study": "harness.api.studies:Study",
    "audit": "harness.measure.audit:audit",
    "bench": "harness.api.latency:bench",
    "load": "harness.export.packed:load",
    "load_recipe": "harness.space.space:load_recipe",
    "load_space": "harness.space.space:load_space",
    "open_study": "harness.api.studies:open_study",
    "plan": "harness.api.studies:plan",
    "search": "harness.api.studies:search",
    "train": "harness.production:train",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import harness` is fast and does not import torch."""
    if name in _LAZY:
        from harness.methods import load_target

        return load_target(_LAZY[name])
    raise AttributeError(f"module 'harness' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


class _Package(ModuleType):
    """The class of this package; it refuses modules as values of public names.

    Importing the subpackage ``harness.train`` would set the attribute ``train`` to it and hide the function of that
    name; so would ``harness.search``. Imports find a subpackage without the attribute, but write ``from harness.train
    import fit``, not ``import harness.train.fit as fit``.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _LAZY and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
