"""Files from somebody else, torn and altered at random, read in a process that may use little memory and time.

Seeded. Each file must be read, or refused with one of our errors.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from tests.chaos import Case

MEMORY = 3 << 30  # bytes of address space beyond what the imports take
CPU_SECONDS = 5  # for one file
COUNT = 300


def altered(data: bytes, draw: random.Random) -> bytes:
    """``data`` with a few bytes changed, cut out, repeated or put in."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at, kind = draw.randrange(len(out) + 1), draw.randrange(5)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del out[at : at + draw.choice((1, 4, 100))]
        elif kind == 2:
            out[at:at] = out[at : at + draw.choice((1, 10, 200))]
        elif kind == 3:
            out[at:at] = draw.choice((b"\xff" * 9, b"\0" * 8, b"[" * 60, b"{", b".nan", b"-1", b"9" * 30, b"&a *a"))
        else:
            out[at : at + 4] = draw.randbytes(4)
        out = out or bytearray(b"x")
    return bytes(out)


def _readers(folder: Path) -> dict[str, tuple[bytes, Callable[[Path], Any]]]:
    """Kind -> (a good file, what reads it)."""
    import numpy as np

    from harness.export import packed
    from harness.measure.bundle import read_results
    from harness.report.study_data import reading
    from harness.runtimes import base as runtimes
    from harness.space.space import load_recipe, load_space
    from harness.tasks.arrays import arrays
    from tests.bundles import results
    from tests.fake_trial import tiny_model
    from tests.oracle import SPACE

    np.savez_compressed(folder / "good.npz", x=np.zeros((20, 4), np.uint8), y=np.arange(20) % 2)
    model = tiny_model(500)

    def model_of(path: Path) -> None:
        with reading(path):
            runtimes.refuse_external_data(path, packed.load(path))

    return {
        "space.yaml": (SPACE.encode(), load_space),
        "recipe.yaml": (b"task: {name: digits}\nstudent: {model: convnet, width: 8}\n", load_recipe),
        "model.onnx": (model, model_of),
        "model.hpk": (packed.pack(model), model_of),
        "data.npz": ((folder / "good.npz").read_bytes(), lambda path: arrays(str(path), str(folder / "good.npz"))),
        "results.json": (results().encode(), read_results),
    }


def work(folder: Path, seed: int, count: int) -> Iterator[Case]:
    """Read ``count`` altered files of each kind, in this process, under the bounds."""
    readers = _readers(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    for kind, (good, read) in readers.items():
        draw, path = random.Random(f"{seed} {kind}"), folder / kind
        for i in range(count):
            path.write_bytes(good if not i else altered(good, draw))
            before, broken = _cpu(), []
            try:
                read(path)
            except HarnessError as error:
                broken += [f"{len(str(error))} characters of message"] if len(str(error)) > 3000 else []
            except Exception as error:
                broken.append(f"{type(error).__name__}: {str(error)[:200]}")
            broken += ["it took more than its time"] if _cpu() - before > CPU_SECONDS else []
            yield f"{kind} {seed}:{i}", broken


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def inputs(count: int = COUNT, seed: int = 23) -> Iterator[Case]:
    """:func:`work` in a fresh process: what kills it is one broken case."""
    command = [sys.executable, "-m", "tests.chaos.fuzz", str(seed), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            where, _, what = line.rstrip("\n").partition("\t")
            yield where, [what] if what else []
    yield "the process", [] if child.returncode == 0 else [f"ended with {child.returncode}"]


def main(seed: int, count: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for where, broken in work(Path(folder), seed, count):
            print(where, "; ".join(broken).replace("\n", " "), sep="\t", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
