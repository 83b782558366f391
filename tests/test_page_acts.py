"""What the pages do in a browser: sort, filter, mark a trial everywhere, print; and what they do not: run a study's
texts, ask anybody."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.offline
import pytest

from harness.report import write_report
from harness.report.compare import load_contenders
from harness.report.compare_page import write_comparison
from harness.report.embed import packed_plotly, script_json
from harness.report.page import page_figures, render
from harness.report.picks import best_points
from harness.report.study_data import StudyData
from harness.report.tradeoffs import hover_texts
from tests.browser import opened
from tests.searching import searched

browser = pytest.mark.slow
COLUMN = """
const cells = (id, i) => [...document.getElementById(id).tBodies[0].rows].map(r => r.cells[i].textContent.trim());
const head = (id, text) => {
  const heads = [...document.getElementById(id).tHead.rows[0].cells];
  return heads.findIndex(h => h.textContent.trim().startsWith(text));
};
"""
SORTED = (
    COLUMN
    + """
const found = {};
for (const name of %s) {
  const i = head("trials", name), button = document.getElementById("trials").tHead.rows[0].cells[i].firstElementChild;
  button.focus();
  found[name] = {keyboard: document.activeElement === button && button.tagName === "BUTTON" && button.tabIndex >= 0};
  for (const way of ["up", "down"]) {
    button.click();
    found[name][way] = [cells("trials", 0), button.parentElement.getAttribute("aria-sort")];
  }
}
found.marked = document.querySelectorAll("#trials [aria-sort]").length;
return found;
"""
)
FILTERED = """
const field = document.querySelector("input.filter[aria-controls=trials]"), only = document.querySelector("input.only");
const rows = [...document.getElementById("trials").tBodies[0].rows], found = [];
const seen = () => found.push([rows.filter(r => r.offsetParent !== null).map(r => Number(r.dataset.trial)),
                               document.querySelector(".shown").textContent]);
for (const text of ["", "widest", "WIDEST-fp32", "no such text"]) {
  field.value = text; field.dispatchEvent(new Event("input")); seen();
}
field.value = ""; only.checked = true; only.dispatchEvent(new Event("change")); seen();
return found;
"""
# Where the mark is in a figure, and the hot rows of the tables, after each act.
MARKED = """
const plot = id => document.getElementById(id);
const size = plot("tradeoff_size_bytes_accuracy"), latency = plot("tradeoff_latency_ms_accuracy");
const at = div => { const t = div.data.find(t => t.meta === "mark"); return [[...t.x], [...t.y]]; };
const hot = () => [...document.querySelectorAll("tr.hot")].map(r => Number(r.dataset.trial));
const trace = size.data.findIndex(t => t.name === "Pareto front"), number = size.data[trace].customdata[%d];
const found = {number, steps: []};
const seen = async () => { await later(300); found.steps.push({size: at(size), latency: at(latency), hot: hot()}); };
const over = (div, i) => {  // a mouse at the point i of the front
  const area = div.querySelector(".nsewdrag"), box = area.getBoundingClientRect(), {xaxis, yaxis} = div._fullLayout;
  const {x, y} = div.data[trace];
  area.dispatchEvent(new MouseEvent("mousemove", {
    bubbles: true, clientX: box.left + xaxis.d2p(x[i]), clientY: box.top + yaxis.d2p(y[i])}));
};
const out = div => div.querySelector(".nsewdrag").dispatchEvent(new MouseEvent("mouseout", {bubbles: true}));
over(size, %d); await seen();
found.label = [...size.querySelectorAll(".hoverlayer text.nums")].map(e => e.textContent).join("");
found.words = size.data[trace].hovertext[%d];
out(size); await seen();
document.querySelector(`#trials tr[data-trial="${number}"] button.trial`).click(); await seen();
over(latency, -1 + latency.data[trace].x.length); await seen();
out(latency); await seen();
return found;
"""
PRINTED = """
const sizes = () => [...document.querySelectorAll(".plotly-graph-div")].map(d => [d._fullLayout.width,
  d._fullLayout.height]);
const screen = sizes();
dispatchEvent(new Event("beforeprint")); await later(300);
const paper = sizes();
dispatchEvent(new Event("afterprint")); await later(300);
return [screen, paper, sizes(), [...document.querySelectorAll(".modebar-btn")].map(b => b.dataset.title)];
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> StudyData:
    return searched(tmp_path_factory.mktemp("box"))


@pytest.fixture(scope="module")
def page(study) -> Path:
    return write_report(study)


def check_order(trials: pd.DataFrame, numbers: list[str], column: str, up: bool) -> None:
    """All trials are there, by the column, and those without a value come last."""
    assert sorted(map(int, numbers)) == trials.index.tolist()
    values = trials.loc[[int(n) for n in numbers], column].tolist()
    known = [v for v in values if v == v and v != ""]
    assert values[: len(known)] == known, "empty cells come last"
    assert known == sorted(known, reverse=not up) and len(set(known)) > 1


@browser
def test_a_click_on_a_head_sorts(study, page, tmp_path):
    heads = {
        "trial": "number",
        "size": "size_bytes",
        "accuracy": "accuracy",
        "baseline": "baseline",
        "clip.threshold": "clip.threshold",
    }
    found = opened(page, tmp_path, script=SORTED % json.dumps([*heads]))
    assert found["errors"] == []
    for head, column in heads.items():
        said = found["result"][head]
        assert said["keyboard"], head
        for way, word in (("up", "ascending"), ("down", "descending")):
            numbers, sort = said[way]
            assert sort == word
            check_order(study.trials, numbers, column, way == "up")
    assert found["result"]["marked"] == 1


@browser
def test_the_filter_shows_rows_with_the_text(study, page, tmp_path):
    found = opened(page, tmp_path, script=FILTERED)
    assert found["errors"] == []
    whole, widest, exact, none, front = found["result"]
    trials = study.trials
    expected = trials.index[trials["baseline"].str.contains("widest")].tolist()
    assert sorted(whole[0]) == trials.index.tolist() and whole[1] == f"{len(trials)} of {len(trials)} shown"
    assert sorted(widest[0]) == expected != [] and sorted(exact[0]) == [0]
    assert none == [[], f"0 of {len(trials)} shown"]
    assert sorted(front[0]) == sorted(study.front["number"])


@browser
def test_a_trial_is_marked_in_all_plots_and_the_table(study, tmp_path):
    i, trials = 1, study.trials.copy()
    trials.loc[~trials["front"], "accuracy"] -= 0.04  # so that the mouse is at one point only
    study, page = replace(study, trials=trials), tmp_path / "page.html"
    page.write_text(render(study, best_points(study)))
    found = opened(page, tmp_path, script=MARKED % (i, i, i))
    assert found["errors"] == []
    result, front = found["result"], study.front
    number, last = result["number"], int(front["number"].iloc[-1])
    assert number == front["number"].iloc[i] != last

    def place(trial: int, cost: str) -> list[list[float]]:
        return [[front.loc[trial, cost]], [front.loc[trial, "accuracy"]]]

    hovered, left, pinned, other, back = result["steps"]
    nothing = [[], []]
    assert hovered["size"] == nothing, "a redraw under the mouse could take its label away"
    assert hovered["latency"] == place(number, "latency_ms") and set(hovered["hot"]) == {number}
    assert (left["size"], left["latency"], left["hot"]) == (nothing, nothing, [])
    for step in (pinned, back):
        assert step["size"] == place(number, "size_bytes") and step["latency"] == place(number, "latency_ms")
        assert set(step["hot"]) == {number}
    assert other["size"] == place(last, "size_bytes") and set(other["hot"]) == {last}
    row = study.trials.loc[number]
    for text in (f"trial {number}", "Accuracy (test): 50.00 %", f"quant.bits = {row['quant.bits']}", row["model"]):
        assert text in result["words"]
    assert f"trial {number}" in result["label"] and row["model"] in result["label"]


@browser
def test_figures_fit_the_paper_and_come_back_and_none_is_uploaded(page, tmp_path):
    found = opened(page, tmp_path, script=PRINTED)
    assert (found["errors"], found["requests"]) == ([], [])
    screen, paper, after, buttons = found["result"]
    assert {tuple(size) for size in paper} == {(640, 340)} and after == screen
    assert all(width != 640 for width, _ in screen)
    assert buttons and not [b for b in buttons if "share" in b.lower() or "cloud" in b.lower()], buttons


def hostile(study: StudyData) -> tuple[str, StudyData]:
    """A text that would run code, and the study with it wherever a study has texts."""
    evil = "</script><script>hacked=1</script><img src=x onerror='hacked=1'>"
    trials = study.trials.copy().rename(columns={"quant.bits": f"quant.{evil}"})
    trials["reason"] = trials["model"] = evil
    trials.loc[trials["baseline"] == "width-sweep", "baseline"] = evil
    searched = tuple(f"quant.{evil}" if n == "quant.bits" else n for n in study.searched)
    importances = {evil: {evil: 0.5}}
    return evil, replace(study, name=evil, trials=trials, searched=searched, importances=importances)


def strings(tree: Any) -> list[str]:
    if isinstance(tree, dict):
        return [s for value in tree.values() for s in strings(value)]
    if isinstance(tree, list | tuple):
        return [s for value in tree for s in strings(value)]
    return [tree] if isinstance(tree, str) else []


def test_figures_have_no_markup_but_our_own(study):
    """plotly reads tags such as ``<a href>`` in every text that it draws."""
    evil, data = hostile(study)
    texts = [s for f in page_figures(data, None).values() for s in strings(json.loads(f.to_json()))]
    texts += hover_texts(data).values()
    assert sum("hacked=1" in text for text in texts) > 20
    for text in texts:
        assert "<" not in re.sub(r"</?(br|b|extra)>", "", text), text


@browser
def test_no_text_of_a_study_becomes_markup_or_code(study, tmp_path):
    evil, data = hostile(study)
    page = tmp_path / "page.html"
    page.write_text(render(data, best_points(data)))
    assert "<img" not in page.read_text() and page.read_text().count("hacked=1") > 10
    script = "return [typeof hacked, document.querySelectorAll('img, svg image').length, document.title];"
    found = opened(page, tmp_path, script=script)
    assert (found["errors"], found["refused"], found["requests"]) == ([], [], [])
    assert found["result"] == ["undefined", 0, f"{evil} - harness"]
    assert len(found["plots"]) == found["places"] > 0


@browser
def test_the_comparison_sorts_too_and_escapes_labels(study, tmp_path):
    label = "<img src=x onerror=alert(1)>"
    ours, other = load_contenders([f"b={study.folder}", f"a={study.folder}"])
    page = write_comparison([ours, replace(other, label=label)], tmp_path / "c.html")
    assert "<img" not in page.read_text()
    script = COLUMN + (
        'document.querySelector("#scores th button").click(); const up = cells("scores", 0);'
        'const i = head("attained_size_bytes", "at most");'
        'const th = document.querySelectorAll("#attained_size_bytes th")[i].firstElementChild; th.click(); th.click();'
        'return [up, cells("attained_size_bytes", i)];'
    )
    found = opened(page, tmp_path, script=script)
    assert (found["errors"], found["requests"]) == ([], [])
    scores, bounds = found["result"]
    assert scores == [label, "b"]
    values = [float(b.split()[0]) for b in bounds]
    assert len(values) == 5 and values == sorted(values, reverse=True)


def test_the_page_has_plotly_whole_and_stays_small(study, page):
    text, size = packed_plotly().values()
    pythons = bytes.maketrans(b".,:", b"&<>")  # the three characters that are not in Python's alphabet, back
    assert not set(text) & set("<>&\"'\\/")
    # Python's own alphabet has no ".", ",", ":", so the way back is unique
    assert zlib.decompress(base64.b85decode(text.encode().translate(pythons))).decode() == plotly.offline.get_plotlyjs()
    assert len(base64.b85decode(text.encode().translate(pythons))) == size
    assert text in page.read_text()
    assert len(page.read_bytes()) < 2_000_000


@pytest.mark.parametrize(
    "value",
    ["</script>", "<!--<script>", "a & b", "\u2028\u2029", {"</script>": [1.5, float("nan"), None]}, "µ\\u003c"],
)
def test_json_in_a_script_is_what_was_put_there(value: Any):
    text = script_json(value)
    assert not set(text) & set("<>&\u2028\u2029")
    expected = {"</script>": [1.5, None, None]} if isinstance(value, dict) else value
    assert json.loads(text) == expected
