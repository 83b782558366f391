"""Attacks: each strikes at one place of a search, a file or an input, and checks what must hold afterwards.

An attack is a function that yields one :data:`Case` for each strike. ``make test`` runs a seeded sample of
each attack; ``make chaos`` runs all of them whole and prints attack, count and broken cases.
"""

from __future__ import annotations

Case = tuple[str, list[str]]  # where it struck; what did not hold (nothing: it was survived)
