"""Studies side by side: intervals against scipy, curves against their trials, a page that asks nobody."""

import math
import re

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import SpaceError
from harness.report.compare import at, attained, common_reference, load_contenders, reach, volume
from harness.report.compare_page import terminal, write_comparison
from harness.stats.intervals import difference_interval, mean_interval, t_95
from tests.searching import SPACE, search_here, space_of


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Two seeds of two samplers."""
    box = tmp_path_factory.mktemp("box")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_FAKE", str(box))
        for sampler in ("tpe", "random"):
            for seed in (1, 2):
                text = SPACE.replace("trials: 14, seed: 1", f"trials: 25, sampler: {sampler}, seed: {seed}")
                space = space_of(box, text=text)
                folder = box / f"{sampler}{seed}"
                search_here(space, folder)
    return box


@pytest.fixture(scope="module")
def contenders(studies):
    names = [",".join(str(studies / f"{sampler}{seed}") for seed in (1, 2)) for sampler in ("tpe", "random")]
    return load_contenders([f"ours={names[0]}", f"random={names[1]}"])


def test_curves_end_at_the_volume_of_the_front(contenders):
    reference = common_reference([s for c in contenders for s in c.studies])
    for contender in contenders:
        for study, curve in zip(contender.studies, contender.curves, strict=True):
            assert [s.elapsed_s for s in curve] == sorted(s.elapsed_s for s in curve)
            assert len(curve) == 25 and curve[-1].epochs == 25
            rows = [{**r, "accuracy": r["test_accuracy"]} for r in study.front.to_dict("records")]
            directions = tuple(o.direction for o in study.objectives)
            assert curve[-1].volume == pytest.approx(volume(rows, reference, directions))


def test_a_curve_is_read_between_its_steps(contenders):
    curve = contenders[0].curves[0]
    assert at(curve, -1, "elapsed_s") == 0 and at(curve, math.inf, "epochs") == curve[-1].volume
    assert reach(curve, curve[-1].volume, "epochs") <= 25
    assert reach(curve, max(s.volume for s in curve) + 1, "elapsed_s") == math.inf


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_intervals_are_students(n):
    values = np.random.default_rng(n).normal(2, 1, n)
    mean, low, high = mean_interval(values.tolist())
    wanted = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert mean == pytest.approx(values.mean()) and (low, high) == pytest.approx(wanted, rel=1e-9)


def test_quantiles_are_those_of_the_tables():
    """Degrees are rounded down, so that an interval is never too narrow."""
    for degrees, quantile in {1: 12.706, 2.9: 4.303, 5: 2.571, 10: 2.228, 11.5: 2.201, 40: 2.021, 120: 1.980}.items():
        assert t_95(degrees) == pytest.approx(quantile, abs=5e-4)
    assert t_95(0.9) == math.inf


def test_the_difference_is_no_narrower_than_welchs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(2, 1, 5), rng.normal(1, 3, 7)
    mean, low, high = difference_interval(a.tolist(), b.tolist())
    wanted = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert mean == pytest.approx(a.mean() - b.mean())
    assert low <= wanted.low + 1e-9 and high >= wanted.high - 1e-9
    assert high - low == pytest.approx(wanted.high - wanted.low, rel=0.1)
    assert math.isinf(difference_interval([1.0], [2.0, 3.0])[1]), "one study says nothing of the spread"


def test_more_bytes_attain_no_less(contenders):
    for cost in ("size_bytes", "latency_ms"):
        for column in zip(*(values for _, values in attained(contenders, cost)), strict=True):
            known = [v for v in column if not math.isnan(v)]
            assert known == sorted(known) and known


def test_the_page_and_the_table(contenders, tmp_path):
    page = write_comparison(contenders, tmp_path / "compare.html").read_text()
    own = re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.S)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", own)
    for part in ("over_elapsed_s", "over_epochs", "front_size_bytes_accuracy", "front_latency_ms_accuracy"):
        assert f'id="{part}"' in page
    assert "ours against random" in terminal(contenders)


def test_the_command(studies, tmp_path):
    result = CliRunner().invoke(
        app, ["compare", str(studies / "tpe1"), str(studies / "random1"), "--out", str(tmp_path / "c.html")]
    )
    assert result.exit_code == 0 and "two studies of each" in result.stdout and (tmp_path / "c.html").exists()


def test_other_objectives_are_refused(studies, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_FAKE", str(tmp_path))
    space = space_of(tmp_path, text=SPACE + "objectives: [accuracy, size_bytes]\n")
    search_here(space, tmp_path / "two")
    with pytest.raises(SpaceError, match="other objectives"):
        load_contenders([str(studies / "tpe1"), str(tmp_path / "two")])
