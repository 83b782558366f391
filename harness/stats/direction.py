"""The direction of an objective."""

from __future__ import annotations

from typing import Literal

Direction = Literal["maximize", "minimize"]
