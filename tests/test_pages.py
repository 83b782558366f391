"""Every page in a browser: all plots drawn, nothing on the console, no request; dark and narrow windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.report import load_study, write_report
from harness.report.compare import load_contenders
from harness.report.compare_page import write_comparison
from tests.browser import contrast, opened
from tests.searching import search_here, space_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
STEPS = {"fp32": 9000, "pruned": 5000, "quantized": 4000, "file": 1200}
REPORT = {
    "tradeoff_size_bytes_accuracy", "tradeoff_latency_ms_accuracy", "volume", "waterfall", "parallel", "importance"
}  # fmt: skip
COMPARISON = {"over_elapsed_s", "over_epochs", "front_size_bytes_accuracy", "front_latency_ms_accuracy"}


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    box = tmp_path_factory.mktemp("box")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_FAKE", str(box))
        space = space_of(box, "search.trials=25")
        search_here(space, box / "study")
    data = load_study(box / "study")
    records = {n: r.model_copy(update={"waterfall": STEPS}) for n, r in data.records.items()}
    contenders = load_contenders([f"a={box / 'study'}", f"b={box / 'study'}"])
    return {
        "report": write_report(replace(data, records=records)),
        "comparison": write_comparison(contenders, box / "compare.html"),
    }


@pytest.mark.parametrize(
    ("page", "expected", "width", "dark"),
    [("report", REPORT, 1400, False), ("report", REPORT, 420, True), ("comparison", COMPARISON, 420, True)],
)
def test_every_plot_is_drawn_and_nothing_is_asked_for(pages, tmp_path, page, expected, width, dark):
    found = opened(pages[page], tmp_path, width, dark)
    assert (found["errors"], found["refused"], found["requests"]) == ([], [], [])
    assert {plot["id"] for plot in found["plots"]} == expected and found["places"] == len(expected)
    for plot in found["plots"]:
        assert plot["marks"] > 0 or plot["ink"] > 100, plot
        assert plot["says"] == ""
        assert plot["text"] and all(contrast(color, plot["card"]) >= 4.5 for color in plot["text"]), plot
    assert found["inner"] == width and found["wide"] <= width
