"""The wheel holds all that a search needs, and works from any folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.space.shipped import located, shipped
from harness.space.space import load_space

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel of this tree is unpacked."""
    made = tmp_path_factory.mktemp("wheel")
    source = made / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    changed = subprocess.run(["git", "diff", "HEAD", "--binary"], cwd=ROOT, capture_output=True, check=True).stdout
    if changed:
        subprocess.run(["git", "apply"], input=changed, cwd=source, check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(made), str(source)], check=True)
    [wheel] = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(made / "site")
    return made / "site"


def test_the_wheel_has_every_file_of_the_package(installed: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "harness"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = {name for name in tracked.stdout.splitlines() if not (ROOT / name).is_symlink()}
    files |= {f"harness/search_spaces/{path.name}" for path in (ROOT / "search_spaces").glob("*.yaml")}
    assert {str(p.relative_to(installed)) for p in (installed / "harness").rglob("*") if p.is_file()} == files


def test_a_shipped_space_is_found_by_its_name_from_any_folder(installed: Path, tmp_path: Path) -> None:
    code = "import harness; print(harness.__file__); print(len(harness.load_space('digits').holes))"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    file, holes = ran.stdout.split()
    assert file.startswith(str(installed)) and int(holes) == len(load_space(ROOT / "search_spaces/digits.yaml").holes)


def test_a_file_of_the_user_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(shipped()) == {path.stem for path in (ROOT / "search_spaces").glob("*.yaml")}
    monkeypatch.chdir(tmp_path)
    assert located(Path("digits")) == shipped()["digits"]
    Path("digits").write_text("task: {name: digits}\n")
    assert located(Path("digits")) == Path("digits")
    assert located(Path("absent.yaml")) == Path("absent.yaml")
