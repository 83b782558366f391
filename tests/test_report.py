"""The report of a study made by the driver's loop: self-contained, escaped, consistent, repeatable."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness import open_study
from harness.errors import HarnessError, SpaceError
from harness.measure.bench import Bench, timings_of
from harness.measure.bundle import into_study
from harness.measure.lab import Job, Session
from harness.records import Measurement, read_record
from harness.report import load_study, pick, terminal_table, write_report
from harness.report.audits import slower_integers
from harness.report.page import summary, warnings
from harness.report.picks import best_points
from harness.space.space import load_recipe
from tests.searching import search_here, space_of


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    box = tmp_path_factory.mktemp("box")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_FAKE", str(box))
        (box / "fail-9").touch()
        search_here(space_of(box, "search.trials=25"), box / "<b>study")
    return box / "<b>study"


def test_the_page_is_one_file_that_asks_nobody(study):
    data = load_study(study)
    page = write_report(data).read_text()
    assert page == write_report(load_study(study)).read_text()
    own = re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.S)  # plotly.js itself names its home page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", own)
    assert "Content-Security-Policy" in page and "<b>study" not in own and "&lt;b&gt;study" in own
    for part in ("tradeoff_size_bytes_accuracy", "tradeoff_latency_ms_accuracy", "volume", "parallel", "importance"):
        assert f'id="{part}"' in page


def test_tables_say_what_the_records_say(study):
    data = load_study(study)
    write_report(data)
    rows = list(csv.DictReader((study / "report" / "trials.csv").read_text().splitlines()))
    assert len(rows) == len(data.records) == 26
    for row in rows:
        record = data.records[int(row["number"])]
        assert row["status"] == record.status
        if record.status == "ok":
            assert float(row["size_bytes"]) == record.value("size_bytes")
            assert float(row["quant.bits"]) == record.recipe["quant"]["bits"]
    front = pd.read_csv(study / "report" / "pareto.csv")
    assert sorted(front["number"]) == sorted(json.loads((study / "study.json").read_text())["front"])
    assert (front["test_accuracy"] == 0.5).all()
    assert str(int(front["number"].iloc[0])) in terminal_table(data)


def test_best_recipes_load_and_carry_their_promise(study):
    data = load_study(study)
    write_report(data)
    points = best_points(data)
    assert set(points) == {"knee", "smallest", "fastest", "most_accurate"}
    for name, number in points.items():
        recipe = load_recipe(study / "best" / f"{name}.yaml")
        assert recipe.to_tree() == data.records[number].recipe
    near = data.front[data.front["accuracy"] >= data.front["accuracy"].max() - 0.02]
    assert data.trials.loc[points["smallest"], "size_bytes"] == near["size_bytes"].min()
    assert data.trials.loc[points["most_accurate"], "accuracy"] == data.front["accuracy"].max()


def test_pick_keeps_the_limits_or_names_the_nearest(study):
    data = load_study(study)
    limit = float(data.front["size_bytes"].median())
    number = pick(data, {"size_bytes": limit}).number
    allowed = data.front[data.front["size_bytes"] <= limit]
    assert data.trials.loc[number, "accuracy"] == allowed["accuracy"].max()
    smallest = pick(data, least={"accuracy": 0.7}).number
    assert data.trials.loc[smallest, "size_bytes"] == data.front[data.front["accuracy"] >= 0.7]["size_bytes"].min()
    with pytest.raises(SpaceError, match=r"no point.*nearest is trial \d+"):
        pick(data, {"latency_ms": 1e-9})


def test_every_front_point_has_a_recipe_and_a_point_that_left_has_none(study, tmp_path):
    study = shutil.copytree(study, tmp_path / "study", ignore=shutil.ignore_patterns("best"))
    data = load_study(study)
    gone = study / "best" / "99999.yaml"
    gone.parent.mkdir(exist_ok=True)
    gone.write_text("of a point that has left the front")
    chosen = pick(data)
    assert chosen.recipe == study / "trials" / f"{chosen.number:05d}" / "recipe.yaml", "no report is written yet"
    write_report(data)
    written = {int(path.stem): path for path in (study / "best").glob("[0-9]*.yaml")}
    assert set(written) == set(data.front["number"])
    for number, path in written.items():
        assert load_recipe(path).to_tree() == data.records[number].recipe
    chosen = pick(data)
    assert chosen.recipe == written[chosen.number] and chosen.recipe.read_text() == chosen.yaml
    assert chosen.values["accuracy"] == data.front["accuracy"].max()


def test_a_link_in_place_of_best_costs_no_file_elsewhere(study, tmp_path):
    """An empty front writes no recipe, so nothing else looks at the folder."""
    study = shutil.copytree(study, tmp_path / "study", ignore=shutil.ignore_patterns("best", "trials"))
    (study / "trials").mkdir()
    victim = tmp_path / "elsewhere" / "00042.yaml"
    victim.parent.mkdir()
    victim.write_text("of somebody else")
    (study / "best").symlink_to(victim.parent)
    with pytest.raises(HarnessError, match="best: must be a folder, but is a symbolic link"):
        write_report(load_study(study))
    assert victim.exists()


def test_the_table_of_a_notebook_escapes_what_a_study_says(study):
    shown = open_study(study)._repr_html_()
    assert "<b>study" not in shown and "&lt;b&gt;study" in shown and shown.count("<tr") > 2


def test_formulas_are_disarmed_and_a_front_that_buys_nothing_is_said_so(study, tmp_path):

    copied = tmp_path / "copy"
    shutil.copytree(study, copied)
    for folder in (copied / "trials").iterdir():
        record = json.loads((folder / "record.json").read_text())
        if record["status"] == "failed":
            record["reason"] = "=HYPERLINK(1)"
            del record["crc32"]
            (folder / "record.json").write_text(json.dumps(record))
        elif not record["baseline"]:
            shutil.rmtree(folder)
    data = load_study(copied)
    write_report(data)
    assert "'=HYPERLINK" in (copied / "report" / "trials.csv").read_text()
    assert any("bought nothing" in sentence for sentence in summary(data))


def test_one_plain_width_is_not_called_a_sweep(study, tmp_path):
    """A space of one width (prune_distill) has one plain student to beat; with two it is a sweep again."""
    copied = tmp_path / "copy"
    shutil.copytree(study, copied)
    plain = [
        folder
        for folder in sorted((copied / "trials").iterdir())
        if json.loads((folder / "record.json").read_text())["baseline"] == "width-sweep"
    ]
    assert len(plain) > 1, "the study's own space has several widths"
    against = [s for s in summary(load_study(copied)) if "hypervolume" in s]
    assert len(against) == 1 and "the plain fp32 width sweep" in against[0]
    for folder in plain:
        shutil.rmtree(folder)
    [sentence] = [s for s in summary(load_study(copied)) if "hypervolume" in s]
    assert "the plain fp32 student:" in sentence and "sweep" not in sentence
    assert "width sweep" not in (write_report(load_study(copied))).read_text()


def test_a_file_that_was_changed_is_left_out_and_named(study, tmp_path):

    copied = tmp_path / "copy"
    shutil.copytree(study, copied)
    model = copied / "trials" / "00002" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    data = load_study(copied)
    assert 2 not in data.records and any("00002" in w for w in warnings(data))


def test_unstable_latencies_are_named_in_one_sentence(study):
    data = load_study(study)
    assert not any("unstable" in w for w in warnings(data))
    members = data.front["number"].tolist()[:3]
    for number in members:
        data.records[number].measurements["latency_ms"].conditions["verdict"] = "unstable"
    [found] = [w for w in warnings(data) if "unstable" in w]
    assert found.endswith(": " + ", ".join(str(n) for n in members))


def test_integers_slower_than_float_are_said_so(study):
    data = load_study(study)
    layer = {"operator": "Conv", "shape": [4, 1, 3, 3], "integer": False}

    def sentences(integer_ms):
        records = dict(data.records)
        for number, integer, ms in ((0, False, 0.1), (1, True, integer_ms)):
            latency = Measurement(name="latency_ms", unit="ms", values=[ms * f for f in (0.99, 1, 1.01)])
            audit = {"audit": {"layers": [{**layer, "integer": integer}]}}
            records[number] = records[number].with_measurements(latency).model_copy(update={"diagnostics": audit})
        others = {n: r.model_copy(update={"diagnostics": {}}) for n, r in records.items() if n > 1}
        return slower_integers(replace(data, records={**records, **others}))

    [told] = sentences(0.15)
    assert "in 1 of 1 networks" in told and "trial 1 takes 1.50 times the latency of trial 0" in told
    assert sentences(0.05) == [] and sentences(0.101) == []  # faster; within the intervals


def test_no_study_is_an_error(tmp_path):
    with pytest.raises(SpaceError, match="must be the folder of a study"):
        load_study(tmp_path)


def test_results_of_a_device_become_an_objective(study, tmp_path):
    study = shutil.copytree(study, tmp_path / "study")
    records = [r for p in sorted((study / "trials").iterdir()) if (r := read_record(p)) and r.status == "ok"]
    jobs = [Job(Path(str(r.number))) for r in records]
    session = Session([[[1.0 + r.number] * 5] * 12 for r in records], [1.0] * len(jobs), 0, "board", "cpu", [])
    made = Bench(timings_of(jobs, [session, session], 0, []), [session, session], 1, 1)
    last = {r.artifact.sha256: 1.0 + r.number for r in records}  # equal files have one latency
    changed = into_study(made, [r.artifact.sha256 for r in records], study)
    assert changed == [r.number for r in records]
    data = load_study(study, ["accuracy", "device_latency_ms"])
    for record in records:
        assert data.trials.loc[record.number, "device_latency_ms"] == last[record.artifact.sha256]
    fastest = min(last.values())
    assert fastest in data.front["device_latency_ms"].tolist()
    assert "tradeoff_device_latency_ms" in write_report(data).read_text()
    with pytest.raises(SpaceError, match="must be a quantity that the study measured"):
        load_study(study, ["accuracy", "joules"])
    with pytest.raises(SpaceError, match="none of the files"):
        into_study(Bench([], [], 1, 1), [], study)
