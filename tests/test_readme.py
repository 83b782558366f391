"""What README and docs show is true: spaces load, commands parse, names are those of the registries, links lead on."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
import typer.main
from ruamel.yaml import YAML

from harness.cli.main import app
from harness.registries import REGISTRIES
from harness.space.space import load_space
from tests.pages import LINKED, PAGES, ROOT, blocks, commands, headings

README = (ROOT / "README.md").read_text()
ROWS = {
    "tasks": REGISTRIES.tasks,
    "students": REGISTRIES.models,
    "clip": REGISTRIES.clips,
    "prune": REGISTRIES.pruners,
    "quantize": REGISTRIES.quantizers,
    "distill": REGISTRIES.distills,
    "runtimes": REGISTRIES.runtimes,
}


def test_there_is_something_to_check() -> None:
    assert len(blocks(ROOT / "README.md", "yaml")) >= 3
    assert sum(len(commands(page)) for page in PAGES) >= 12


@pytest.mark.parametrize("text", blocks(ROOT / "README.md", "yaml"))
def test_a_space_in_the_readme_loads(text: str) -> None:
    assert load_space(YAML(typ="safe").load(text)).holes


@pytest.mark.parametrize(("page", "line"), [(p, line) for p in PAGES for line in commands(p)])
def test_a_command_can_be_parsed(page: Path, line: str) -> None:
    _, verb, *arguments = shlex.split(line)
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    context = command.make_context(verb, arguments)
    assert context.info_name == verb, page


@pytest.mark.parametrize("row", ROWS)
def test_the_table_of_what_is_supported_names_what_the_registry_has(row: str) -> None:
    [cell] = re.findall(rf"^\| {row} \| (.*) \|$", README, re.M)
    assert set(re.findall(r"`([\w-]+)`", cell)) == set(ROWS[row]) - {"none"}


def test_the_points_of_the_readme_are_those_of_the_committed_search() -> None:
    with (ROOT / "results" / "reference" / "digits" / "trials.csv").open() as file:
        trials = {row["number"]: row for row in csv.DictReader(file)}
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) % \| ([\d.]+) kB \| ([\d.]+) µs \| (.*) \|$", README, re.M)
    assert len(rows) == 5
    for number, accuracy, size, latency, recipe in rows:
        trial = trials[number]
        assert f"{100 * float(trial['test_accuracy']):.1f}" == accuracy
        assert f"{float(trial['size_bytes']) / 1000:.3g}" == size
        assert f"{1000 * float(trial['latency_ms']):.1f}" == latency
        assert (f"{float(trial['quant.bits']):.0f} bits" in recipe) == (float(trial["quant.bits"]) < 32)
        if trial["baseline"] == "":
            assert f"{float(trial['prune.ratio']):.0%}".replace("%", " %") in recipe


@pytest.mark.parametrize("page", LINKED, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if heading:
            anchors = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings(file)]
            assert heading in anchors, target
