"""Imports go strictly downward, libraries stay where they belong, and the driver has no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "harness"
FLOORS = {
    **dict.fromkeys(
        (
            "errors",
            "files",
            "passwords",
            "methods",
            "recipe",
            "records",
            "pareto",
            "yaml_source",
            "holes",
            "hole_reader",
            "settings",
            "baselines",
            "space",
            "first",
            "intervals",
            "normalize",
            "checksums",
            "seeding",
        ),
        0,
    ),
    **dict.fromkeys(("techniques", "tasks", "models"), 1),
    "train": 2,
    "deploy": 3,
    "trust": 3,
    "scoring": 4,
    "ending": 5,
    "proof": 6,
    "trial": 7,
    **dict.fromkeys(("search", "report", "production", "doctor", "check"), 8),
    "cli_measure": 9,
    "cli": 10,
    "__main__": 11,
}
# The aggregate of all declarations has no floor: whoever stands above what it gathers may read it,
# and load_space does so inside a function when it is given no registries.
REGISTRIES = "registries"
READERS_OF_REGISTRIES = ("space.py",)
ONLY = {"optuna": "search", "ray": "search", "onnx": "deploy", "onnxruntime": "deploy", "plotly": "report"}
TORCH_FREE = {REGISTRIES, "__init__", *FLOORS} - {
    "seeding",
    "techniques",
    "tasks",
    "models",
    "train",
    "deploy",
    "scoring",
    "ending",
    "proof",
    "trial",
}
DRIVER = (
    "harness.cli",
    "harness.search.driver",
    "harness.deploy.latency",
    "harness.space",
    "harness.registries",
    "harness.production",
    "harness.doctor",
)

FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, top_level: bool = False) -> set[str]:
    """Dotted names that a file imports; ``from a import b`` gives ``a`` and ``a.b``."""
    tree = ast.parse(path.read_text(), str(path))
    nodes = _executed(tree) if top_level else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{path}: imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _executed(tree: ast.Module) -> list[ast.stmt]:
    """Statements that run when the module is imported (not the bodies of functions, nor what is
    for type checkers only)."""
    return [s for s in tree.body if not (isinstance(s, ast.If) and ast.unparse(s.test) == "TYPE_CHECKING")]


def part(path: Path) -> str:
    """Package or module directly below ``harness``: ``techniques/clip.py`` is ``techniques``."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("harness.")} & {
        *FLOORS,
        REGISTRIES,
    }


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_part_has_a_floor() -> None:
    parts = {part(path) for path in FILES} - {"__init__", REGISTRIES}
    assert parts == set(FLOORS), "a new module belongs into FLOORS, one that is gone out of it"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_go_strictly_downward(path: Path) -> None:
    own = part(path)
    if own in ("__init__", REGISTRIES):
        return
    for other in imported_parts(path) - {own}:
        if other == REGISTRIES:
            assert FLOORS[own] >= 2 or relative(path) in READERS_OF_REGISTRIES, f"{own} reads the registries"
        elif FLOORS[own] > 0 or FLOORS[other] > 0:  # on the ground floor modules may import each other
            floors = f"{own} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"
            assert FLOORS[other] < FLOORS[own], floors


def test_registries_gather_declarations_only() -> None:
    assert imported_parts(PACKAGE / "registries.py") <= {"methods", "techniques", "tasks", "models", "deploy"}


def test_no_import_cycles() -> None:
    modules = {
        f"harness.{relative(p).removesuffix('.py').replace('/', '.')}".removesuffix(".__init__"): p for p in FILES
    }
    graph = {
        name: {i for i in imports(path, top_level=True) if i in modules and i != name} for name, path in modules.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_libraries_stay_where_they_belong(path: Path) -> None:
    names = imports(path)
    for library, owner in ONLY.items():
        if part(path) != owner:
            assert library not in {name.split(".")[0] for name in names}, f"only {owner}/ imports {library}"
    assert not any(name == "ray.tune" or name.startswith("ray.tune.") for name in names)


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
        "import sys, harness.cli\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules}"
        " & {'torch', 'ray', 'optuna', 'pandas', 'numpy', 'onnx', 'plotly', 'ruamel', 'pydantic'}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr
