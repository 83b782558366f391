"""The decision card: the recommended point by its rule, intervals and ratios against other computations, and what it
says where a study lacks something."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
from scipy import stats

from harness.records import Measurement
from harness.report import load_study, write_report
from harness.report.curves import ACCURACY, LOSS, POINTS, learning_curves
from harness.report.decision import card
from harness.report.limits import limit_fields
from harness.report.page import warnings
from harness.report.picks import best_points
from harness.report.plots import FRONT, LEVEL, NAMED, SWEEP, TEACHER
from harness.report.study_data import StudyData
from harness.report.tradeoffs import tradeoff
from harness.report.units import scale, scaled
from harness.space.settings import Objective
from harness.stats.spaced import evenly
from tests.browser import contrast
from tests.searching import SPACE, search_here, space_of


def searched(box, name: str, *overrides: str, text: str = SPACE) -> StudyData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_FAKE", str(box))
        search_here(space_of(box, *overrides, text=text), box / name)
    return load_study(box / name)


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    return tmp_path_factory.mktemp("box")


@pytest.fixture(scope="module")
def data(box) -> StudyData:
    return searched(box, "study", "search.trials=25")


def made_of(data: StudyData, points: dict[int, tuple[float, float, float]], **more: object) -> StudyData:
    """The study with only these points on its front: number -> (accuracy, bytes, ms)."""
    trials = data.trials.copy()
    trials["front"] = trials.index.isin(points)
    for number, values in points.items():
        trials.loc[number, ["accuracy", "size_bytes", "latency_ms"]] = values
    return replace(data, trials=trials, **more)


def shown(data: StudyData) -> dict:
    return card(data, best_points(data))


POINTS_OF_FRONT = {  # the third is far from the best, the fourth is cheap in both costs for one lost point of accuracy
    5: (0.99, 100_000.0, 4.0),
    6: (0.985, 30_000.0, 3.0),
    7: (0.80, 100.0, 0.1),
    8: (0.98, 10_000.0, 1.0),
    9: (0.971, 9_000.0, 3.9),
}


def test_the_recommended_point_is_the_nearest_to_the_ideal(data):
    made = made_of(data, POINTS_OF_FRONT)
    near = {n: p for n, p in POINTS_OF_FRONT.items() if p[0] >= 0.99 - 0.02}
    losses = {n: (-a, math.log(b), math.log(c)) for n, (a, b, c) in near.items()}
    spans = [(min(v), max(v)) for v in zip(*losses.values(), strict=True)]
    distance = {
        n: sum(((v - low) / (high - low)) ** 2 for v, (low, high) in zip(loss, spans, strict=True))
        for n, loss in losses.items()
    }
    said = shown(made)
    assert said["number"] == min(distance, key=distance.__getitem__) == 8
    assert "5 points, 4 are within 2 accuracy points of the best on validation" in said["rule"]
    assert {o["title"]: o["number"] for o in said["others"]} == {"smallest": 9, "fastest": 8, "most accurate": 5}
    assert [o["same"] for o in said["others"]] == [False, True, False]


def test_ties_are_broken_without_test_values(data):
    """Two equal points: the lower number is taken, whatever their test values say."""
    for better in (5, 6):
        trials = made_of(data, {5: (0.9, 1000.0, 1.0), 6: (0.9, 1000.0, 1.0)}).trials
        trials.loc[better, "test_accuracy"] = 0.99
        trials.loc[11 - better, "test_accuracy"] = 0.01
        points = best_points(replace(data, trials=trials))
        assert set(points.values()) == {5}


def test_the_interval_of_the_test_accuracy_is_wilsons(data):
    k, n = 345, 359
    trials = data.trials.copy()
    trials.loc[trials["front"], ["test_accuracy", "test_n"]] = (k / n, n)
    [accuracy, *_] = shown(replace(data, trials=trials))["tiles"]
    exact = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert accuracy["value"] == "96.10 %" and accuracy["label"] == "accuracy (test)"
    assert accuracy["detail"] == f"95 % interval {100 * exact.low:.2f} % .. {100 * exact.high:.2f} %, n = {n}"


def test_ratios_to_the_widest_student(data):
    """Trial 0 is the widest fp32 student."""
    trials = made_of(data, {5: (0.95, 2_000.0, 0.5)}).trials
    trials.loc[0, ["accuracy", "size_bytes", "latency_ms", "test_accuracy"]] = (0.97, 40_000.0, 0.4, 0.96)
    trials.loc[5, "test_accuracy"] = 0.94
    accuracy, size, latency = shown(replace(data, trials=trials))["tiles"]
    assert accuracy["against"] == "2.00 points below the widest fp32 student: 96.00 % on test"
    assert size["against"] == "1/20.0 of the widest fp32 student (40.0 kB)"
    assert latency["against"] == "1.25 times that of the widest fp32 student (400 µs)"
    trials.loc[0, "test_accuracy"] = math.nan
    accuracy = shown(replace(data, trials=trials))["tiles"][0]
    assert accuracy["value"] == "94.00 %" and accuracy["against"].startswith("2.00 points below")
    assert accuracy["against"].endswith("97.00 % on validation"), "both values are of the same split"


def test_a_study_without_the_widest_student_or_test_values_says_so(data):
    trials = made_of(data, POINTS_OF_FRONT).trials
    trials["test_accuracy"] = math.nan
    trials["baseline"] = ""
    said = shown(replace(data, trials=trials))
    assert said["tiles"][0]["label"] == "accuracy (validation)" and said["tiles"][0]["value"] == "98.00 %"
    assert all(tile["against"] == "" for tile in said["tiles"])
    assert any("no test value yet" in n for n in said["notes"]) and any("no widest" in n for n in said["notes"])


def test_unstable_and_tied_points_say_so(data):
    made = made_of(data, {5: (0.95, 1000.0, 1.0), 6: (0.94, 2000.0, 0.99), 7: (0.93, 900.0, 0.98)})
    trials = made.trials.copy()
    trials.loc[[5, 6, 7], ["latency_low", "latency_high"]] = [(0.97, 1.03), (0.96, 1.02), (0.5, 0.6)]
    unstable = Measurement(name="latency_ms", unit="ms", values=[1.0], conditions={"verdict": "unstable"})
    made = replace(made, trials=trials, records={**made.records, 7: made.records[7].with_measurements(unstable)})
    points = {"knee": 6, "smallest": 7, "fastest": 6, "most_accurate": 5}
    said = card(made, points)
    assert said["notes"] == [
        "tied: on the front only by a latency difference within the noise; trial 5 is at least as good in everything "
        "else"
    ]
    assert [o["notes"] for o in said["others"]] == [["latency unstable"], ["tied"], []]


def test_an_empty_front_says_why(box):
    data = searched(box, "empty", "search.trials=8", text=SPACE + "constraints: {accuracy: {min: 0.9999}}\n")
    finished = len(data.finished)
    assert shown(data) == {
        "says": f"There is nothing to deploy yet: none of the {finished} finished trials meets the constraints."
    }
    assert "There is nothing to deploy yet" in write_report(data).read_text()
    assert not [w for w in warnings(data) if "interval" in w], "there is no best accuracy"
    nothing = replace(data, trials=data.trials.assign(complete=False))
    assert shown(nothing)["says"].endswith("no trial finished.")


def test_a_study_without_latency_has_no_fastest_point(box):
    data = searched(box, "two", "search.trials=12", text=SPACE + "objectives: [accuracy, size_bytes]\n")
    data = replace(data, trials=data.trials.assign(latency_ms=math.nan))
    assert set(best_points(data)) == {"knee", "smallest", "most_accurate"}
    said = shown(data)
    assert [t["label"] for t in said["tiles"]] == ["accuracy (test)", "size"]
    assert "latency was not measured in this study" in said["notes"]
    assert [f["name"] for f in limit_fields(data)] == ["accuracy", "size_bytes"]


def test_another_metric_is_named_and_its_direction_kept(data):
    """A metric that is minimized: the widest student's value is higher, so the point is better."""
    trials = made_of(data, {5: (0.95, 2000.0, 0.5)}).trials.assign(error=4.0, test_error=4.5)
    trials.loc[5, ["error", "test_error"]] = (2.0, 2.5)
    objectives = (Objective("error", "minimize"), Objective("size_bytes", "minimize"))
    error = Measurement(name="error", unit="1", values=[2.0])
    records = {n: r.with_measurements(error) for n, r in data.records.items()}
    said = shown(replace(data, trials=trials, objectives=objectives, records=records))
    assert said["tiles"][0]["label"] == "error (test)" and said["tiles"][0]["detail"] == ""
    assert said["tiles"][0]["against"] == "2.0000 below the widest fp32 student (better): 4.5000 on test"
    assert said["others"][-1]["title"] == "best error" and said["others"][-1]["rule"].startswith("lowest error")


def test_error_bars_of_the_front_are_wilsons_and_the_medians(data):
    figure = tradeoff(data, "latency_ms", data.quality, recommended=None)
    [front] = [t for t in figure.data if t.name == "Pareto front"]
    assert list(front.customdata) == data.front["number"].tolist()
    for i, number in enumerate(front.customdata):
        accuracy = data.records[number].measurements["accuracy"]
        n = accuracy.conditions["n"]
        exact = stats.binomtest(round(accuracy.median * n), n).proportion_ci(method="wilson")
        assert front.error_y.array[i] == pytest.approx(exact.high - accuracy.median, abs=0.006)  # k is rounded
        low, high = data.records[number].measurements["latency_ms"].interval()
        assert front.error_x.array[i] == pytest.approx(high - front.x[i]) and front.x[i] >= low


def test_sweep_teacher_and_recommended_are_labeled_in_the_plot(data):
    recommended = best_points(data)["knee"]
    figure = tradeoff(data, "size_bytes", data.quality, recommended)
    texts = {t.name: list(t.text) for t in figure.data if t.text is not None}
    assert texts == {"fp32 width sweep": ["4", "8", "fp32, width 16"], "teacher": ["teacher"]}
    row = data.front.loc[recommended]
    [label] = [a for a in figure.layout.annotations if "recommended" in a.text]
    assert (10**label.x, label.y) == pytest.approx((row["size_bytes"], row["accuracy"]))


def test_front_points_below_the_range_are_counted(data):
    figure = tradeoff(made_of(data, POINTS_OF_FRONT), "size_bytes", data.quality)
    low = figure.layout.yaxis.range[0]
    assert 0.80 < low < 0.971
    assert [a.text for a in figure.layout.annotations] == ["below: 1 of the front<br>(double click)"]
    costs = tuple(o for o in data.objectives if o.name != "accuracy")
    figure = tradeoff(replace(made_of(data, POINTS_OF_FRONT), objectives=costs), "size_bytes", data.quality)
    assert figure.layout.yaxis.range[0] < 0.80, "the front of costs alone may lie anywhere"


def test_curves_of_accuracy_are_the_rungs_and_the_end(box):
    data = searched(box, "stop", "search.trials=40", "train.epochs=9", "search.stop=moasha")
    stopped = data.trials.index[data.trials["status"] == "stopped"].tolist()
    assert stopped and not data.front.empty
    recommended = best_points(data)["knee"]
    drawn = learning_curves(data, recommended)
    assert drawn is not None and drawn[0] == ACCURACY
    traces = {t.name: t for t in drawn[1].data}
    assert {*traces["stopped early"].customdata} - {None} <= {*stopped}
    record, best = data.records[recommended], traces["recommended"]
    curve = {e: v for e, v in zip(best.x, best.y, strict=True) if e is not None}
    assert curve == {
        **{int(e): float(f"{v:.4g}") for e, v in record.diagnostics["rungs"].items()},
        9: float(f"{record.value('accuracy'):.4g}"),
    }


def test_without_rungs_the_curves_are_losses(data):
    assert learning_curves(data, None) is None, "the fake trials leave no history"
    number = int(data.front["number"].iloc[0])
    lines = [f"{epoch},{1 / epoch}" for epoch in range(1, 101)]
    history = data.folder / "trials" / f"{number:05d}" / "history.csv"
    history.write_text("\n".join(["epoch,loss", *lines]) + "\n")
    try:
        drawn = learning_curves(data, number)
    finally:
        history.unlink()
    assert drawn is not None and drawn[0] == LOSS
    [trace] = drawn[1].data
    assert len(trace.x) == POINTS + 1 and trace.x[:1] + trace.x[-2:] == (1, 100, None)
    assert all(y == pytest.approx(1 / x, rel=1e-3) for x, y in zip(trace.x[:-1], trace.y[:-1], strict=True))


def test_thinned_keeps_the_ends():
    assert evenly(range(10), 20) == [*range(10)]
    few = evenly(range(1000), 7)
    assert len(few) == 7 and few[0] == 0 and few[-1] == 999 and few == sorted(set(few))


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("size_bytes", [172, 250, 366], ["172 B", "250 B", "366 B"]),
        ("size_bytes", [300, 4070, 78600], ["0.30 kB", "4.07 kB", "78.6 kB"]),
        ("size_bytes", [2_000_000, 9_120_000], ["2.00 MB", "9.12 MB"]),
        ("latency_ms", [0.0383, 0.0544, math.nan], ["38.3 µs", "54.4 µs", ""]),
        ("latency_ms", [0.9, 12.0, 40.0], ["0.90 ms", "12.0 ms", "40.0 ms"]),
        ("test_accuracy", [0.9, 0.955], ["90.00 %", "95.50 %"]),
        ("f1", [0.9], ["0.9000"]),
    ],
)
def test_a_column_has_one_unit(name, values, text):
    assert [scaled(name, v, scale(name, values)) for v in values] == text


def test_the_colors_are_seen_on_both_cards():
    """WCAG 2.2, 1.4.11: graphical objects need a contrast of 3."""
    for color in (FRONT, SWEEP, TEACHER, NAMED, LEVEL):
        rgb = f"rgb({int(color[1:3], 16)}, {int(color[3:5], 16)}, {int(color[5:], 16)})"
        for card_color in ("rgb(255, 255, 255)", "rgb(24, 33, 43)"):
            assert contrast(rgb, card_color) >= 3, (color, card_color)


def test_a_front_of_one_point_is_said(data):
    made = made_of(data, {5: (0.95, 2000.0, 0.5)})
    assert shown(made)["rule"] == "Trial 5 is the only point of the front."
    assert "width" in shown(made)["recipe"] and "sweep" not in shown(made)["recipe"]
    baseline = shown(made_of(data, {0: (0.95, 2000.0, 0.5)}))
    assert baseline["recipe"].startswith("widest-fp32, ") and baseline["tiles"][0]["against"] == ""
    assert isinstance(made.front, pd.DataFrame) and len(made.front) == 1
