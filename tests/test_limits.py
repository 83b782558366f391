"""The page's limits against ``pick``: the same point, the same nearest point, and a command that gives it."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import SpaceError
from harness.records import Measurement
from harness.report import load_study, pick, write_report
from harness.report.limits import limit_data
from harness.report.page import render
from harness.report.picks import best_points
from harness.report.study_data import StudyData
from harness.space.settings import Objective
from tests.browser import opened
from tests.searching import searched

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
# Fills the fields, one list of texts after the other, and reads what the page says.
TYPED = """
const fields = [...document.querySelectorAll("#limits input")], found = [];
for (const texts of %s) {
  fields.forEach((field, i) => { field.value = texts[i]; });
  document.getElementById("limits").dispatchEvent(new Event("input"));
  const [command, train] = [...document.querySelectorAll("#found code")].map(code => code.textContent);
  const shown = !document.getElementById("found").hidden;
  found.push({number: document.getElementById("chosen").dataset.number, command, train, shown,
              text: document.getElementById("chosen").textContent});
}
return found;
"""
CHOSEN = """
const data = %s;
return %s.map(limits => ({
  chosen: harness.choose(data, limits)?.number ?? null, nearest: harness.nearest(data, limits)?.number ?? null}));
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> StudyData:
    return searched(tmp_path_factory.mktemp("box"), "it's a study")


def test_the_fields_give_the_command_and_the_command_gives_the_point(study, tmp_path):
    front = study.front
    accuracies, sizes, latencies = (sorted(front[n]) for n in ("accuracy", "size_bytes", "latency_ms"))
    typed = [
        ["", "", ""],
        [str(100 * accuracies[1]), "", ""],
        ["", str(sizes[1]), ""],
        ["", "", str(1000 * latencies[-2])],
        [f"{100 * accuracies[0]:.1f}", "", str(1000 * latencies[1] + 0.001)],
        ["99.999", "", ""],
        ["99", "1", "1e-3"],
        ["1e1", f"{sizes[0]:.0f}.9", ""],
    ]
    page = write_report(study)
    assert page.parent.parent.name == "it's a study"
    found = opened(page, tmp_path, script=TYPED % json.dumps(typed))
    assert found["errors"] == [] and len(found["result"]) == len(typed)
    answers = set()
    for texts, said in zip(typed, found["result"], strict=True):
        words = shlex.split(said["command"]) if said["shown"] else []
        if said["shown"]:
            assert words[:3] == ["harness", "pick", "."], "the copy of the page does not stand in a study"
            ran = CliRunner().invoke(app, ["pick", str(study.folder), *words[3:]])
            assert ran.exit_code == 0, ran.output
            assert ran.output.startswith(f"trial {said['number']}:"), (texts, ran.output)
            assert said["train"] == f"harness train best/{int(said['number']):05d}.yaml"
        else:
            most = {"size_bytes": float(texts[1])} if texts[1] else {}
            most |= {"latency_ms": float(texts[2]) / 1000} if texts[2] else {}
            with pytest.raises(SpaceError) as refused:
                pick(study, most, {"accuracy": float(texts[0]) / 100})
            nearest = re.search(r"nearest is trial (\d+)", str(refused.value))
            assert nearest and f"The nearest is trial {nearest[1]}:" in said["text"]
        if texts[1].endswith(".9"):
            assert words[-1] == texts[1].removesuffix(".9"), "no file that is larger than the limit"
        answers.add((said["number"], said["shown"]))
    assert len(answers) >= 4, "the limits must tell points apart"


def test_the_page_in_a_study_names_the_study_wherever_it_is(study, tmp_path):
    """Also in a folder whose name a shell would take apart."""
    moved = tmp_path / "a b; touch $(x) 'q'" / "report"
    moved.mkdir(parents=True)
    found = opened(write_report(study), moved, name="index.html", script=TYPED % json.dumps([["", "", ""]]))
    [said] = found["result"]
    assert shlex.split(said["command"]) == ["harness", "pick", str(moved.parent)]
    assert shlex.split(said["train"])[:2] == ["harness", "train"]
    assert Path(shlex.split(said["train"])[2]).parent == moved.parent / "best"


def drawn_points(data: StudyData, rng: np.random.Generator) -> StudyData:
    """The study with many ties in quality and size on its front, and a metric that is not known of every point."""
    trials = data.trials.copy()
    trials["front"] = trials["complete"]
    rows = trials.index[trials["front"]]
    trials.loc[rows, "accuracy"] = rng.integers(90, 94, len(rows)) / 100
    trials.loc[rows, "size_bytes"] = 1000.0 * rng.integers(1, 4, len(rows))
    trials.loc[rows, "latency_ms"] = rng.integers(1, 4, len(rows)) / 10
    trials["f1"] = np.where(rng.random(len(trials)) < 0.2, np.nan, rng.integers(1, 9, len(trials)) / 10)
    trials["test_f1"] = np.nan
    f1 = Measurement(name="f1", unit="1", values=[0.5])
    return replace(data, trials=trials, records={n: r.with_measurements(f1) for n, r in data.records.items()})


def limits_of(data: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Limits on some of the fields, often exactly at a point's value."""
    limits = []
    for field in data["fields"]:
        if rng.random() < 0.5:
            values = [v for p in data["points"] if (v := p["values"][field["name"]]) is not None and v == v]
            value = float(rng.choice(values)) * float(rng.choice([1, 1, 0.97, 1.03, 0.5, 2]))
            limits.append({**{k: field[k] for k in ("name", "side", "weight", "cost")}, "value": value})
    return limits


@pytest.mark.parametrize("quality", ["accuracy", "f1", "f1 minimized"])
def test_the_rule_is_that_of_pick(study, tmp_path, quality):
    rng = np.random.default_rng(len(quality))
    data = drawn_points(study, rng)
    direction = "minimize" if "minimized" in quality else "maximize"
    qualities = [Objective("accuracy", "maximize")]
    if quality != "accuracy":
        qualities.insert(0, Objective("f1", direction))
    costs = [Objective("size_bytes", "minimize"), Objective("latency_ms", "minimize")]
    data = replace(data, objectives=(*qualities, *costs))
    page_data = limit_data(data)
    drawn = [limits_of(page_data, rng) for _ in range(250)]
    shown = json.loads(re.sub(r"\bNaN\b", "null", json.dumps(page_data)))
    found = opened(write_report(study), tmp_path, script=CHOSEN % (json.dumps(shown), json.dumps(drawn)))
    assert found["errors"] == []
    hits = 0
    for limits, answer in zip(drawn, found["result"], strict=True):
        most, least = ({x["name"]: x["value"] for x in limits if x["side"] == side} for side in ("most", "least"))
        try:
            expected = pick(data, most, least).number
        except SpaceError as refused:
            nearest = re.search(r"nearest is trial (\d+)", str(refused))
            assert nearest and (answer["chosen"], answer["nearest"]) == (None, int(nearest[1])), limits
        else:
            hits += 1
            assert answer["chosen"] == expected, limits
    assert 50 < hits < 250


def test_another_front_than_the_searchs_has_no_command_of_pick(study, tmp_path):
    """``harness pick`` chooses from the front of the search's own objectives."""
    other = load_study(study.folder, ["accuracy", "size_bytes"])
    assert (limit_data(study)["own"], limit_data(other)["own"]) == (True, False)
    page = tmp_path / "page.html"
    page.write_text(render(other, best_points(other)))
    script = "return [...document.querySelectorAll('#found .command')].map(c => c.offsetParent !== null);"
    assert opened(page, tmp_path, script=script)["result"] == [False, True]
