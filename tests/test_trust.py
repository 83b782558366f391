"""Code that a study names runs only where the user has agreed to it; and SECURITY.md has a test for each sentence."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import SpaceError
from harness.search.first_trials import _front
from harness.space import trust
from harness.space.source import read_source
from harness.space.space import load_space
from harness.verify.check import check
from harness.verify.confirm import confirm
from tests.chaos.foreign import make_study
from tests.searching import FakeLab, search_here

ROOT = Path(__file__).resolve().parent.parent


def unsealed(found: dict[str, Any]) -> str:
    """JSON as an attacker writes it: without the checksum, which older versions had not."""
    return json.dumps({key: value for key, value in found.items() if key != "crc32"})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HARNESS_FAKE", "")  # make_study sets it: put back afterwards
        yield make_study(tmp_path_factory.mktemp("box"))


@pytest.fixture
def hostile(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study whose space, records and recipes name a module that leaves a mark when it is imported."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_FAKE", str(made.parent))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\ndef data(): raise SystemExit\n")
    study = tmp_path / "foreign"
    shutil.copytree(made, study)
    for path in study.glob("trials/*/record.json"):
        record = json.loads(path.read_text())
        record["recipe"]["task"] = {"name": "evil:data"}
        path.write_text(unsealed(record))
    for path in (study / "space.yaml", *study.glob("best/*.yaml")):
        path.write_text(json.dumps(read_source(path).tree | {"task": {"name": "evil:data"}}))
    return study


@pytest.mark.parametrize("verb", ["check", "confirm", "train"])
def test_a_verb_says_what_it_would_run_and_does_not_run_it(verb: str, hostile: Path) -> None:
    """``check`` ran ``os:system`` out of a study from somebody else."""
    given = hostile / "best" / "knee.yaml" if verb == "train" else hostile
    ran = CliRunner().invoke(app, [verb, str(given)])
    assert ran.exit_code == 2
    told = ran.output.replace("\n", " ")
    assert f"{verb} would import and run code that this study names: 'evil:data'" in told
    assert "--trust" in told
    assert not Path("ran").exists()


@pytest.mark.parametrize("verb", ["report", "status", "pick", "compare"])
def test_a_verb_that_only_reads_runs_nothing_and_does_not_ask(verb: str, hostile: Path) -> None:
    ran = CliRunner().invoke(app, [verb, str(hostile), *(["--out", "page.html"] if verb == "compare" else [])])
    assert ran.exit_code == 0, ran.output
    assert not Path("ran").exists()


@pytest.mark.parametrize("way", ["a link out of the study", "a study without its space"])
def test_no_way_round_the_question_before_training(way: str, hostile: Path, tmp_path: Path) -> None:
    knee = hostile / "best" / "knee.yaml"
    if way == "a link out of the study":
        shutil.move(knee, tmp_path / "elsewhere.yaml")
        knee.symlink_to(tmp_path / "elsewhere.yaml")
    else:
        (hostile / "space.yaml").unlink()
    ran = CliRunner().invoke(app, ["train", str(knee)])
    assert ran.exit_code == 2 and "--trust" in ran.output, ran.output
    assert not Path("ran").exists()


def test_with_trust_it_runs(hostile: Path) -> None:
    with pytest.raises(SpaceError, match="'evil:data' raised SystemExit"):
        check(hostile, lab=FakeLab, trusted=True)  # type: ignore[arg-type]
    assert Path("ran").exists()


def test_a_user_at_a_terminal_is_asked(hostile: Path) -> None:
    asked: list[str] = []
    for run in (check, confirm):
        with pytest.raises(SpaceError, match="Nothing was run"):
            run(hostile, ask=lambda question: bool(asked.append(question)))
    assert len(asked) == 2 and all("'evil:data'. Run it?" in question for question in asked)


def test_a_search_is_consent_for_its_own_folder_and_code_only(hostile: Path, tmp_path: Path) -> None:
    trust.remember(hostile, {"evil:data"})
    trust.require("check", hostile, {"evil:data"}, agreed=False)
    with pytest.raises(SpaceError, match="'os:system'"):
        trust.require("check", hostile, {"evil:data", "os:system"}, agreed=False)
    with pytest.raises(SpaceError, match="'evil:data'"):
        trust.require("check", tmp_path / "copy", {"evil:data"}, agreed=False)
    assert not list(hostile.rglob("*trust*")), "the study itself cannot say that it is trusted"


def test_a_search_in_a_foreign_folder_refuses_code_that_its_space_does_not_name(made: Path, hostile: Path) -> None:
    shutil.copy(made / "space.yaml", hostile / "space.yaml")
    space = load_space(hostile / "space.yaml", overrides=["search.trials=30"])
    with pytest.raises(SpaceError, match="its trials name code that the space does not: evil:data"):
        search_here(space, hostile)  # type: ignore[arg-type]
    assert not Path("ran").exists()


def test_a_warm_start_takes_values_and_no_code(made: Path, hostile: Path) -> None:
    points = _front(hostile, load_space(made / "space.yaml"))
    assert points and "evil" not in str(points)
    assert not Path("ran").exists()


def test_code_is_found_in_every_branch() -> None:
    tree = {
        "task": {"name": "a:task", "path": "C:/no"},
        "student": {"choice": [{"model": "b:net", "note": "x:y"}, {"model": {"choice": ["mlp", "c:net"]}}]},
        "teacher": {"model": "d:net"},
        "deploy": {"runtime": "e:run"},
    }
    assert trust.named_code(tree) == {"a:task", "b:net", "c:net", "d:net", "e:run"}
    assert trust.named_code({"task": None, "student": [], "teacher": "self"}) == set()
    assert trust.named_code(None) == set()


def test_heads_of_tables_are_no_formulas(made: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(made, study)
    for path in study.glob("trials/*/record.json"):
        record = json.loads(path.read_text())
        record["recipe"]["=cmd|' /C calc'!A0"] = {"x": "=1+1", "y": " @SUM(1)"}
        record["recipe"]["number"] = "hides the column"
        path.write_text(unsealed(record))
    assert CliRunner().invoke(app, ["report", str(study)]).exit_code == 0
    for name in ("trials", "pareto"):
        lines = (study / "report" / f"{name}.csv").read_text().splitlines()
        cells = [cell.strip('"') for line in lines for cell in line.split(",")]
        assert any("cmd|" in cell for cell in cells)
        assert not [cell for cell in cells if re.match(r"\s*[=+@]|-\D", cell)]
        assert lines[0].split(",")[0] == "number" and lines[1].split(",")[0].isdigit()


def test_a_page_escapes_what_a_study_says(made: Path, tmp_path: Path) -> None:
    study, script = tmp_path / "study", "</script><img src=x onerror=alert(1)>"
    shutil.copytree(made, study)
    for name, key in (("study.json", "name"), ("study.json", "status"), ("environment.json", "cpu_model")):
        found = json.loads((study / name).read_text())
        (study / name).write_text(unsealed(found | {key: script}))
    for path in study.glob("trials/*/record.json"):
        record = json.loads(path.read_text())
        record["recipe"]["x"] = {script: script}
        path.write_text(unsealed(record | {"reason": script}))
    assert CliRunner().invoke(app, ["report", str(study)]).exit_code == 0
    page = (study / "report" / "index.html").read_text()
    assert "onerror=alert(1)" in page
    assert "<img src=x" not in page


def _tests() -> set[str]:
    files = [*ROOT.glob("tests/test_*.py"), *ROOT.glob("tests/chaos/test_*.py")]
    return {
        f"{path.relative_to(ROOT / 'tests')}::{node.name}"
        for path in files
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_claim_of_the_security_page_names_a_test_that_exists() -> None:
    rows = [
        line for line in (ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("| ") and "---" not in line
    ]
    claims = [row.strip("| ").split(" | ") for row in rows if not row.startswith("| claim")]
    assert len(claims) > 20
    known = _tests()
    for claim, *cells in claims:
        named = re.findall(r"`([\w/]+\.py::\w+)`", " ".join(cells))
        assert named, f"no test is named for: {claim}"
        assert set(named) <= known, f"{set(named) - known} of: {claim}"
