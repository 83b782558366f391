"""Imports go strictly downward, libraries stay where they belong, the driver has no torch, tests import no tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "harness"
# From the bottom to the top: what stands in a line may import what stands in the lines above it.
FLOORS = (
    "errors",
    "files",
    "stats",
    "methods",
    "normalize",
    "recipe",
    "records",
    "space",
    "techniques",
    "models",
    "tasks",
    "train",
    "machine",
    "export",
    "runtimes",
    "measure",
    "trial",
    "trackers",
    "search",
    "verify",
    "report",
    "production",
    "api",
    "cli",
    "__main__",
)
ROOT_MODULES = 7  # at most, beside __init__ and __main__
# The registries gather declarations of every floor, so they have none: the packages from ``train`` upwards may read
# them, and ``load_space`` does so inside a function when it is given none.
REGISTRIES = "registries"
READERS_OF_REGISTRIES = {"space/space.py"}
ONLY = {
    "optuna": ("search",),
    "ray": ("search",),
    "plotly": ("report",),
    "onnx": ("machine", "export", "runtimes", "measure"),
    "onnxruntime": ("machine", "export", "runtimes", "measure"),
}
RAY = {"search/cluster.py", "search/pool.py"}
TORCH_FREE = {"errors", "files", "stats", "methods", "normalize", "recipe", "records", "space", "machine", "measure"}
TORCH_FREE |= {"trackers", "search", "verify", "report", "production", "api", "cli", "__main__", REGISTRIES, "__init__"}
DRIVER = (
    "harness.cli.main",
    "harness.search.driver",
    "harness.verify.check",
    "harness.measure.lab",
    "harness.space.space",
    "harness.registries",
    "harness.production",
    "harness.cli.doctor",
)

FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, also for type checkers only; ``from a import b`` gives both ``a`` and
    ``a.b``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{path}: imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def part(path: Path) -> str:
    """Package or module directly below ``harness``: ``techniques/clip.py`` is ``techniques``."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("harness.")} & {*FLOORS, REGISTRIES}


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_part_has_a_floor() -> None:
    parts = {part(path) for path in FILES} - {"__init__", REGISTRIES}
    assert parts == set(FLOORS), "a new module belongs into FLOORS, one that is gone out of it"


def test_few_modules_stand_at_the_root() -> None:
    assert len([p for p in PACKAGE.glob("*.py") if not p.stem.startswith("__")]) <= ROOT_MODULES


def test_no_two_modules_have_one_name() -> None:
    count = Counter(path.stem for path in FILES if path.stem != "__init__")
    assert [name for name, n in count.items() if n > 1] == []


@pytest.mark.parametrize("package", sorted(p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()))
def test_a_package_says_what_lives_there(package: str) -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / package / "__init__.py").read_text())) or ""
    assert re.search(r"Input:|come[s]? in", text) and re.search(r"[Nn]othing|[Nn]o |not", text), text


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_go_strictly_downward(path: Path) -> None:
    own = part(path)
    if own in ("__init__", REGISTRIES):
        return
    for other in imported_parts(path) - {own}:
        if other == REGISTRIES:
            above = FLOORS.index(own) >= FLOORS.index("train")
            assert above or relative(path) in READERS_OF_REGISTRIES, f"{own} reads the registries"
        else:
            assert FLOORS.index(other) < FLOORS.index(own), f"{own} imports {other}, which stands above it"


def test_registries_gather_declarations_only() -> None:
    assert imported_parts(PACKAGE / "registries.py") <= {"methods", "techniques", "tasks", "models", "runtimes"}


def test_no_import_cycles() -> None:
    """Not even through imports inside functions or for type checkers, but for the registries, which have no floor."""
    modules = {
        f"harness.{relative(p).removesuffix('.py').replace('/', '.')}".removesuffix(".__init__"): p for p in FILES
    }
    graph = {name: {i for i in imports(p) if i in modules and i != name} for name, p in modules.items()}
    graph["harness.space.space"] -= {f"harness.{REGISTRIES}"}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_libraries_stay_where_they_belong(path: Path) -> None:
    names = imports(path)
    for library, owners in ONLY.items():
        if part(path) not in owners:
            assert library not in {name.split(".")[0] for name in names}, f"only {owners} import {library}"
    assert not any(name == "ray.tune" or name.startswith("ray.tune.") for name in names)
    if relative(path) not in RAY:
        assert "ray" not in {name.split(".")[0] for name in names}, f"only {sorted(RAY)} import ray"


@pytest.mark.parametrize("path", [p for p in FILES if part(p) in TORCH_FREE], ids=relative)
def test_the_drivers_side_names_no_torch(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "torchvision", "torch_pruning"}


def test_the_driver_imports_no_torch() -> None:
    code = "import importlib, sys\n" + "".join(f"importlib.import_module({name!r})\n" for name in DRIVER)
    code += (
        "import harness.report as r; [getattr(r, name) for name in r.__all__]\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'torchvision', 'torch_pruning'}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "", f"the driver imported {ran.stdout.strip()}"


def test_help_imports_next_to_nothing() -> None:
    code = (
        "import sys, harness.cli.main\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules}"
        " & {'torch', 'ray', 'optuna', 'pandas', 'numpy', 'onnx', 'plotly', 'ruamel', 'pydantic'}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr


def test_no_test_imports_another() -> None:
    """What several files need stands in a module that is named after it, their fixtures in ``conftest.py``."""
    found = {
        f"{path.relative_to(TESTS)}: {name}"
        for path in TESTS.rglob("*.py")
        for name in imports(path)
        if any(part.startswith("test_") for part in name.split("."))
    }
    assert found == set()
