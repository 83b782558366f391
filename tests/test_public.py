"""The public names of the package: the same functions, however often and in whatever order things are imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = {
    "task": {"name": "digits"},
    "student": {"model": "mlp", "hidden": [8]},
    "train": {"epochs": 1},
}
TWICE = f"""
import harness
from harness.recipe import parse_recipe
from harness.registries import REGISTRIES
recipe = parse_recipe({RECIPE!r}, REGISTRIES)
for out in ("one", "two"):
    print(harness.train(recipe, out).record.status)
"""
ORDERS = {
    "plain": "import harness",
    "the subpackage first": "import harness.train.fit",
    "the function first": "from harness import train",
    "every module": (
        "import pkgutil, importlib, harness\n"
        "for m in pkgutil.walk_packages(harness.__path__, 'harness.'):\n"
        "    if not m.name.endswith('__main__'): importlib.import_module(m.name)"
    ),
}
NAMES = """
import harness, inspect
expected = {
    "load": "harness.export.packed", "load_recipe": "harness.space.space", "load_space": "harness.space.space",
    "train": "harness.production", "search": "harness.api.studies", "open_study": "harness.api.studies",
    "bench": "harness.api.latency", "audit": "harness.measure.audit",
}
assert set(expected) <= set(dir(harness)), dir(harness)
for _ in range(2):
    for name, module in expected.items():
        found = getattr(harness, name)
        assert inspect.isfunction(found) and (found.__module__, found.__name__) == (module, name), (name, found)
from harness import load, load_recipe, load_space, train
assert (load, load_recipe, load_space, train) == (
    harness.load, harness.load_recipe, harness.load_space, harness.train
)
from harness.train import lanes, fit          # the subpackage keeps its own names
assert (lanes.__name__, fit.__name__) == ("harness.train.lanes", "harness.train.fit")
from harness.search import driver
assert driver.__name__ == "harness.search.driver" and driver.search is not harness.search
"""


def python(code: str, folder: Path) -> str:
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_type_checkers_see_every_public_name() -> None:
    import harness

    stub = ast.parse((Path(harness.__file__).with_suffix(".pyi")).read_text())
    typed = {
        alias.asname: f"{node.module}:{alias.name}"
        for node in ast.walk(stub)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == harness._LAZY


def test_training_twice_in_a_process(tmp_path: Path) -> None:
    assert python(TWICE, tmp_path).split() == ["ok", "ok"]
    assert (tmp_path / "two" / "model.onnx").is_file()


@pytest.mark.parametrize("first", ORDERS.values(), ids=list(ORDERS))
def test_every_public_name_is_its_function_after(first: str, tmp_path: Path) -> None:
    python(f"{first}\n{NAMES}", tmp_path)


def test_a_public_name_can_be_replaced_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import harness

    before = harness.train
    with monkeypatch.context() as patch:
        patch.setattr(harness, "train", print)
        assert harness.train is print
    assert harness.train is before
