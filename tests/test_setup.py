"""The set-up: pinned requirements that cover the project, and a Makefile that says what it does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
PINS = re.findall(r"^([a-z0-9._-]+)==(\S+)", LOCK, re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [Requirement(r) for r in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"])]


@pytest.mark.parametrize("requirement", NEEDED, ids=str)
def test_every_dependency_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    versions = [v for name, v in PINS if canonicalize_name(name) == canonicalize_name(requirement.name)]
    assert versions and all(requirement.specifier.contains(v) for v in versions)


def test_every_pin_has_hashes_and_no_place_is_named() -> None:
    for entry in re.split(r"\n(?=[a-z0-9])", LOCK)[1:]:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert not re.search(r"://|file:|--index|--find-links|^-e|@", LOCK, re.MULTILINE)


def test_the_license_and_package_data_are_there() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_wheel_ships_types_and_templates(tmp_path: Path) -> None:
    copy = tmp_path / "copy"  # a build leaves folders beside the sources
    copy.mkdir()
    shutil.copytree(ROOT / "harness", copy / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    [wheel] = copy.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        p.relative_to(ROOT).as_posix() for kind in ("*.py", "*.j2", "*.css") for p in ROOT.glob(f"harness/**/{kind}")
    }
    assert {"harness/py.typed", *sources} <= names


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a fresh shell, not as part of the ``make test`` that may run this."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    handed = ("MAKE", "ARGS", "VENV", "SPACE", "STUDY", "RECIPE", "PYTHON", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(handed)}
    command = ["make", "-C", str(ROOT), "--no-print-directory", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_help_lists_every_target() -> None:
    shown = make("help").stdout
    targets = {line.split()[0] for line in shown.splitlines()}
    assert targets == {
        "help",
        "docs",
        "wheel",
        "search",
        "test",
        "report",
        "train",
        "test-gpu",
        "test-long",
        "test-lowest",
        "lint",
        "bench",
        "chaos",
        "clean",
    }


@pytest.mark.parametrize(("venv", "python"), [("system", "python3"), ("my/env", "my/env/bin/python")])
def test_an_existing_environment_is_used_as_it_is(venv: str, python: str) -> None:
    planned = make("-n", "search", f"VENV={venv}", "SPACE=search_spaces/mnist_mlp.yaml", "ARGS=--trials 3").stdout
    assert planned.split("\n") == [f"{python} -m harness search search_spaces/mnist_mlp.yaml --trials 3", ""]


def test_the_knee_of_the_spaces_study_is_trained_by_default() -> None:
    planned = make("-n", "train", "VENV=system").stdout
    assert planned.strip() == "python3 -m harness train results/digits/best/knee.yaml"


def test_an_old_python_is_refused_with_a_remedy(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    ran = make("-B", ".venv/.ready", f"PYTHON={old}")
    assert ran.returncode != 0
    assert f"harness needs Python >= 3.11, and {old} is not." in ran.stderr
    assert "Setting up" not in ran.stdout
