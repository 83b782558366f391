"""The command line: one clear message and exit code 2 for a mistake, and nothing left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import harness
from harness.cli.main import app
from harness.errors import HarnessError
from harness.production import Check

GOOD = """
task: {name: digits}
student: {model: mlp, hidden: [8]}
train: {epochs: 1}
quant: {bits: {choice: [4, 8]}}
"""
RECIPE = GOOD.replace("{choice: [4, 8]}", "8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with one good space in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(GOOD)
    return tmp_path


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def refused(*arguments: str) -> str:
    """The one line on standard error of a request that ends with exit code 2."""
    before = everything()
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("harness: ") and result.stderr.count("\n") == 1, result.stderr
    assert everything() == before, "something was left behind"
    return result.stderr


def everything() -> set[str]:
    return {str(path) for path in Path(".").rglob("*")}


MISTAKES = [
    ("wrong key", "student: {modle: mlp}", "space.yaml:2: student"),
    ("unknown section", "student: {model: mlp}\ntrian: {epochs: 3}", "Did you mean 'train'?"),
    ("high below low", "student: {model: mlp}\ntrain: {lr: {float: [0.1, 0.01]}}", "`low < high` must hold"),
    (
        "log with 0",
        "student: {model: mlp}\ntrain: {lr: {float: [0, 0.1], log: true}}",
        "`log: true` needs low > 0",
    ),
    ("unknown method", "student: {model: mlp}\nclip: {kind: norn, threshold: 1}", "Did you mean 'norm'?"),
    ("unknown model", "student: {model: convent, width: {choice: [4, 8]}}", "Did you mean 'convnet'?"),
    ("a tag", "student: {model: !!python/name:os.system x}", "YAML tags are not allowed"),
    ("not YAML", "student: {model: [", "is not valid YAML"),
    ("no hole", "student: {model: mlp}\nquant: {bits: 8}", "needs at least one hole"),
]


@pytest.mark.parametrize(("text", "expected"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_in_the_space(here: Path, text: str, expected: str) -> None:
    hole = "" if "quant" in text else "quant: {bits: {choice: [4, 8]}}\n"
    (here / "space.yaml").write_text(f"task: {{name: digits}}\n{text}\n{hole}")
    assert expected in refused("search", "space.yaml")


NO_STUDY = "none: must be the folder of a study (it holds no trials/)"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["search", "none.yaml"], "none.yaml: no such file"),
        (["search", "."], ".: is a folder, not a YAML file. Did you mean 'space.yaml'?"),
        (
            ["search", "space.yaml", "--trials", "0"],
            "--trials: must be at least 1, but got 0. Example: --trials 60.",
        ),
        (["search", "space.yaml", "--set", "train.epoch=3"], "Did you mean 'epochs'?"),
        (["search", "space.yaml", "--set", "train.epochs"], "`section.key=value`"),
        (
            ["search", "space.yaml", "--study", "a/b"],
            "--study: must be a name without slashes, but got 'a/b'",
        ),
        (["search", "space.yaml", "--study", ".."], "--study: must be a name without slashes, but got '..'"),
        (["search", "space.yaml", "--study", "a", "--out", "b"], "Give one of the two"),
        (["search", "space.yaml", "--out", "space.yaml"], "--out: must be a folder, but got 'space.yaml'"),
        (
            ["search", "space.yaml", "--out", "space.yaml/study"],
            "--out: must be a folder, but got 'space.yaml'",
        ),
        (["train", "none.yaml"], "none.yaml: no such file"),
        (["train", "space.yaml"], "quant.bits: a recipe has no holes"),
        *((["report", "none"], NO_STUDY), (["status", "none"], NO_STUDY), (["pick", "none"], NO_STUDY)),
    ],
)
def test_a_mistake_in_the_request(here: Path, arguments: list[str], expected: str) -> None:
    assert expected in refused(*arguments)


@pytest.mark.parametrize("content", [b"\x00\xff\x00\x10PNG", b"", b"- a\n- b\n"], ids=["binary", "empty", "list"])
@pytest.mark.parametrize("verb", ["search", "train"])
def test_a_file_that_is_no_recipe(here: Path, verb: str, content: bytes) -> None:
    (here / "odd.yaml").write_bytes(content)
    assert "odd.yaml" in refused(verb, "odd.yaml")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serach"], "'serach'"),
        (["search"], "'SPACE'"),
        (["train", "recipe.yaml", "--epochs", "many"], "'--epochs'"),
        (["train", "recipe.yaml", "--epochs", "0"], "'--epochs'"),
        (["pick", "x", "--fastest"], "--fastest"),
    ],
)
def test_usage_errors_end_with_2_and_name_the_argument(here: Path, arguments: list[str], named: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert named in result.stderr.partition("Error")[2]


def harness_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=cwd,
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_the_process_itself_ends_with_2_and_one_line(here: Path) -> None:
    (here / "space.yaml").write_text(GOOD.replace("epochs", "epoch"))
    ran = harness_command("search", "space.yaml", cwd=here)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.count("\n") == 1 and "space.yaml:4: train.epoch: unknown key" in ran.stderr
    assert everything() == {"space.yaml"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("--set=resources.gpu=1", "resources.gpu"),
        ("--set=task.name=nowhere:data", "cannot import 'nowhere:data'"),
        ("--address=127.0.0.1:9", "127.0.0.1:9"),
    ],
    ids=["GPU where there is none", "task that cannot be imported", "dead cluster"],
)
def test_what_only_the_search_can_refuse(here: Path, extra: str, expected: str) -> None:
    ran = harness_command("search", "space.yaml", extra, cwd=here)
    assert ran.returncode == 2, ran.stderr
    assert expected in ran.stderr and "Traceback" not in ran.stderr
    assert everything() <= {"space.yaml", "results"}


VERBS = {"init", "search", "report", "status", "pick", "train", "doctor", "version"}
VERBS |= {"bench", "check", "confirm", "compare", "audit"}


def test_help_and_version() -> None:
    shown = call("--help")
    assert shown.exit_code == 0
    table = shown.stdout.partition("Commands")[2]
    assert set(re.findall(r"^│ (\w+)  +\w", table, re.MULTILINE)) == VERBS
    assert call("version").stdout == f"{harness.__version__}\n"


@pytest.mark.slow
def test_doctor_names_what_a_search_uses() -> None:
    shown = call("doctor")
    assert shown.exit_code == 0
    for name in (
        "python",
        "processor",
        "instructions",
        "GPUs",
        "torch",
        "onnxruntime",
        "ray",
        "optuna",
        "cache",
    ):
        assert f"\n{name} " in f"\n{shown.stdout}"


def test_train_prints_promise_against_outcome(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def train(recipe: Any, out: Path, **options: Any) -> SimpleNamespace:
        seen.update(options, out=out, bits=recipe.quant.options["bits"])
        checks = [
            Check("size_bytes", 1000.0, 1200.0, False, "at most 1 %"),
            Check("accuracy", None, 0.9, None, ""),
        ]
        return SimpleNamespace(folder=out, test={"accuracy": 0.95, "n": 360.0}, checks=checks)

    monkeypatch.setattr("harness.production.train", train)
    (here / "knee.yaml").write_text(RECIPE + "promise: {size_bytes: 1000}\n")
    shown = call("train", "knee.yaml", "--epochs", "3", "--seed", "7")
    assert shown.exit_code == 0, shown.output
    assert callable(seen.pop("on_loaded"))
    assert seen == {
        "out": Path("knee-trained"),
        "bits": 8,
        "epochs": 3,
        "seed": 7,
        "promise": {"size_bytes": 1000},
    }
    assert "test accuracy 0.9500 (n = 360)" in shown.stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.stdout.splitlines()]
    assert ["size_bytes", "1000", "1200", "NO", "at most 1 %"] in rows
    assert ["accuracy", "", "0.9", "", ""] in rows, "nothing was promised of it, so nothing is judged"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (HarnessError("the disk is full"), 1, "harness: the disk is full\n"),
        (KeyboardInterrupt(), 130, "harness: interrupted\n"),
    ],
)
def test_other_ends_of_a_verb(
    here: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("harness.production.train", train)
    (here / "recipe.yaml").write_text(RECIPE)
    result = call("train", "recipe.yaml")
    assert (result.exit_code, result.stderr) == (code, message)
