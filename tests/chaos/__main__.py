"""``make chaos [ARGS="ATTACK ..."]``: every attack whole, or those that are named.

The exit code is 1 where one broke something.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.report import conditions
from tests.chaos import Case, deaths
from tests.chaos.disk import MODES
from tests.chaos.flips import flips
from tests.chaos.foreign import folders
from tests.chaos.fuzz import inputs
from tests.chaos.strikes import strikes

ATTACKS: dict[str, Callable[[], Iterator[Case]]] = {
    **{mode: partial(strikes, mode) for mode in MODES},
    "flips": flips,
    "folders": folders,
    "inputs": inputs,
    "signals": deaths.signals,
    "parts": deaths.parts,
    "standstill": deaths.standstill,
}


def main(names: list[str]) -> int:
    known = conditions()
    versions = ", ".join(f"{name} {number}" for name, number in known["versions"].items())
    machine = f"{known['cpu_model']}, {known['cores']} cores"
    print(f"{machine}; Python {known['python']}, {versions}; commit {known['commit']}")
    print(f"{'attack':14} {'count':>6} {'broken':>6} {'seconds':>7}", flush=True)
    whole = 0
    for name in names or ATTACKS:
        started, count, broken = time.monotonic(), 0, []
        for where, what in ATTACKS[name]():
            count += 1
            broken += [f"  {where}: {'; '.join(what)}"] if what else []
        print(f"{name:14} {count:6} {len(broken):6} {time.monotonic() - started:7.0f}", *broken, sep="\n", flush=True)
        whole += len(broken)
    return 1 if whole else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
