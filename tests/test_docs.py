"""The pages under docs/: what they show is run, the reference is what the code gives, every page can be reached."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import harness
from harness.registries import REGISTRIES
from harness.search import driver, plan
from harness.space.space import load_space
from tests.pages import DOCS, LINKED, PAGES, ROOT, Block, all_blocks, blocks
from tests.searching import Here, Seen
from tests.verbs import harness_here

TUTORIAL, REFERENCE = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "reference"
NOTEBOOK = ROOT / "examples" / "first_front.ipynb"
SMALL = {"TRIALS = 20": "TRIALS = 4", "EPOCHS = 10": "EPOCHS = 1"}  # in the notebook


@pytest.fixture(scope="module")
def in_this_process():
    """Searches train for real, but here: without Ray and without the imports of a worker."""
    from harness.trial import run  # with torch

    with pytest.MonkeyPatch.context() as patch:
        defaults = driver.search.__kwdefaults__
        patch.setitem(defaults, "make_pool", lambda *_: Here(slots=1, module=run))
        patch.setitem(defaults, "examine", partial(Seen, module=run))
        patch.setattr(plan, "Examination", partial(Seen, module=run))
        yield


def test_the_reference_is_what_the_code_gives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    stale = importlib.import_module("generate").main(check=True)
    assert not stale, capsys.readouterr().out


def test_every_key_and_option_has_a_meaning() -> None:
    for page in ("spaces.md", "cli.md"):
        rows = re.findall(r"^\| `([^`]+)`.*\|([^|]*)\|$", (REFERENCE / page).read_text(), re.M)
        assert len(rows) > 40
        assert [key for key, meaning in rows if not meaning.strip()] == [], "declare it with doc=, or help="


def test_every_name_of_the_registries_is_in_the_reference() -> None:
    text = (REFERENCE / "spaces.md").read_text()
    for registry in vars(REGISTRIES).values():
        for name, method in registry.items():
            assert f"| `{name}` |" in text
            assert all(f"| `{option}` |" in text for option in method.options)


def test_every_page_can_be_reached_from_the_index() -> None:
    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    assert spec is not None and spec.loader is not None
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    index = ROOT / "docs" / "index.md"
    reached = re.findall(r"^[\w./-]+$", conf.contents(index.read_text()), re.M)
    assert {(index.parent / f"{name}.md").resolve() for name in reached} >= set(DOCS) - {index}


def test_every_make_target_in_a_plain_block_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    lines = [line for page in LINKED for block in blocks(page, "") for line in block.splitlines()]
    named = {name for line in lines for name in re.findall(r"^ *make ([a-z-]+)", line)}
    assert len(named) > 4 and named <= targets


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_no_other_host(tmp_path: Path) -> None:
    pytest.importorskip("furo", reason="needs the extra `docs`")
    build = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "--conf-dir", "docs", ".", str(tmp_path)]
    ran = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > len(DOCS)
    for file in [*pages, *tmp_path.rglob("*.css")]:
        assert (
            re.findall(r"<(?:script|img|iframe|link)\b[^>]*\bhttps?://|url\([\"']?https?:|@import", file.read_text())
            == []
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_yaml_and_python_can_be_read(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for text in blocks(page, "yaml"):
        tree = YAML(typ="safe").load(text)
        if {"task", "student"} <= tree.keys():
            assert load_space(tree).holes
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text if "->" not in text else "")):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "harness":
                assert hasattr(harness, node.attr)


@pytest.fixture(scope="module")
def tutorial(in_this_process, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Block, str, str]]:
    """What each block of the tutorial prints when it is followed with a small budget: block, shown text, real text."""
    folder, steps = tmp_path_factory.mktemp("tutorial"), []
    found = all_blocks(TUTORIAL)
    for block, after in zip(found, [*found[1:], None], strict=True):
        shown = after.text if after is not None and after.language == "text" else ""
        if block.language == "yaml":
            (folder / "space.yaml").write_text(block.small)
        elif block.language == "python":
            steps.append((block, shown, printed(block.small, folder)))
        elif block.language == "" and block.text.startswith("harness "):
            ran = harness_here(*shlex.split(block.small)[1:], cwd=folder)
            assert ran.returncode == 0, f"{block.small}{ran.stderr}"
            steps.append((block, shown, ran.stdout))
    return steps


def printed(code: str, folder: Path) -> str:
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "block", "exec"), {})
    return out.getvalue()


def form(text: str) -> str:
    """The text without its numbers and the length of its spaces."""
    return re.sub(r"\s+", " ", re.sub(r"[\d.]+", "0", text)).strip()


def labels(text: str) -> set[str]:
    """What stands before a colon at the start of a line."""
    return set(re.findall(r"^ *([\w/ ]+):", form_of_lines(text), re.M))


def form_of_lines(text: str) -> str:
    return re.sub(r"\d+", "0", text)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tutorial_prints_what_it_shows(tutorial: list[tuple[Block, str, str]]) -> None:
    assert [block.text.split()[:2] for block, *_ in tutorial if block.language == ""] == [
        ["harness", verb] for verb in ("version", "search", "search", "pick", "train")
    ]
    for block, shown, real in tutorial:
        if block.language == "python" or "version" in block.text:
            assert form(shown) == form(real), block.text
        else:
            assert labels(shown) and labels(shown) <= labels(real), f"{block.text}{real}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_runs(in_this_process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells), "strip the outputs"
    text = "\n".join(code)
    for shown, run in SMALL.items():
        assert shown in text
        text = text.replace(shown, run)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(text, NOTEBOOK.name, "exec"), names)
    assert names["study"].outcome.finished == 4 and len(names["figure"].data) == 2
    assert names["model"].graph.node and names["point"].number in set(names["front"]["number"])
