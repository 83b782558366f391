"""Which way an objective improves."""

from __future__ import annotations

from typing import Literal

Direction = Literal["maximize", "minimize"]
