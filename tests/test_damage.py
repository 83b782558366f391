"""Damaged files of a study: noticed, named, and made again where they can be."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import SpaceError
from harness.files.checksums import write_checked_json
from harness.report.compare import load_contenders
from harness.report.loading import load_study
from harness.verify.check import check
from harness.verify.confirm import confirm
from tests.chaos.flips import flip, flips_in
from tests.searching import FakeLab, run, space_of, started

CHECKED = ("study.json", "test.json", "teacher.json", "latency_cache.json", "importances.json", "environment.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, monkeypatch_module) -> Path:
    """A box with a finished study, to be copied."""
    place = tmp_path_factory.mktemp("finished")
    monkeypatch_module.setenv("HARNESS_FAKE", str(place))
    run(place, "search.trials=8")
    return place


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture
def study(finished, tmp_path, monkeypatch) -> Path:
    shutil.copytree(finished, tmp_path / "box")
    monkeypatch.setenv("HARNESS_FAKE", str(tmp_path / "box"))
    return tmp_path / "box" / "study"


def again(study: Path, *overrides: str, **options):
    return run(study.parent, *(overrides or ("search.trials=8",)), **options)


@pytest.mark.parametrize("line", [1, 9, 40])
def test_a_flipped_bit_in_the_journal_is_named_by_its_line(study, line):
    """A digit becomes another one: the line is still JSON."""
    path = study / "study.log"
    lines = path.read_bytes().splitlines(keepends=True)
    place = [m.start() for m in re.finditer(rb"[0-8]", lines[line - 1][:-21])][-1]
    lines[line - 1] = flip(lines[line - 1], 8 * place)
    path.write_bytes(b"".join(lines))
    json.loads(lines[line - 1])
    with pytest.raises(SpaceError, match=rf"line {line} of the study's journal is damaged.*--rebuild"):
        again(study, "search.trials=9")
    assert again(study, "search.trials=9", rebuild=True).finished == 9
    assert len(started(study.parent)) == len(set(started(study.parent))) == 9


def test_optuna_reads_the_journal_with_its_checksums_and_a_journal_without_them_opens(study):
    path = study / "study.log"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(re.fullmatch("[0-9a-f]{8}", line["crc32"]) for line in lines)

    def theirs() -> list:
        storage = JournalStorage(JournalFileBackend(str(path)))
        return [(t.state, t.params, t.values, t.user_attrs) for t in storage.get_all_trials(0)]

    with_checksums = theirs()
    path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "crc32"}) + "\n" for line in lines))
    assert theirs() == with_checksums
    assert again(study, "search.trials=9").finished == 9
    assert "crc32" in json.loads(path.read_text().splitlines()[-1])


def test_files_without_checksums_open(study):
    """As an older version has left them."""
    for path in (*(study / name for name in CHECKED), *study.glob("trials/*/record.json")):
        content = json.loads(path.read_text())
        del content["crc32"]
        path.write_text(json.dumps(content))
    told = study / "told.csv"
    told.write_text("\n".join(line.rpartition(",")[0] for line in told.read_text().split("\n")))
    before = len(started(study.parent))
    assert again(study).status == "already complete"
    data = load_study(study)
    assert len(data.finished) == 8 and not data.unreadable and not data.damaged
    assert again(study, "search.trials=9").finished == 9 and len(started(study.parent)) == before + 1


@pytest.mark.parametrize("name", [*CHECKED, "told.csv"])
@pytest.mark.parametrize("how", ["digit", "cut", "empty", "binary"])
def test_a_damaged_summary_is_named_and_made_again(study, caplog, name, how):
    path = study / name
    whole = path.read_bytes()
    tested = {k: v for k, v in json.loads((study / "test.json").read_bytes()).items() if k != "crc32"}
    place = [m.start() for m in re.finditer(rb"[0-8]", whole[: -len(whole) // 3])][-1]
    path.write_bytes({"digit": flip(whole, 8 * place), "cut": whole[:-30], "empty": b"", "binary": b"\xff\0" * 40}[how])
    before = len(started(study.parent))
    outcome = again(study)
    assert outcome.finished == 8 and len(started(study.parent)) == before
    said = caplog.text.replace(str(study), "")  # its path has the test's name
    assert re.search(rf"{re.escape(name)}.*(damaged|again)", said), said
    if name == "test.json":
        assert {k: v for k, v in json.loads(path.read_bytes()).items() if k != "crc32"} == tested
    assert again(study).status == "already complete"


@pytest.mark.parametrize("verb", ["report", "status", "pick", "compare", "check", "confirm"])
def test_every_verb_that_reads_says_that_the_summary_is_damaged(study, verb):
    path = study / "study.json"
    path.write_bytes(path.read_bytes().replace(b'"maximize"', b'"minimize"', 1))
    ended = CliRunner().invoke(app, [verb, str(study)])
    assert ended.exit_code == 2, ended.output
    assert "study.json is damaged: it does not match its checksum" in ended.output
    assert "Give the search's command again" in ended.output


def test_a_reader_names_what_it_leaves_out(study, caplog):
    (study / "test.json").write_bytes((study / "test.json").read_bytes().replace(b"0.5", b"0.7", 1))
    record = study / "trials" / "00003" / "record.json"
    record.write_bytes(record.read_bytes().replace(b'"seed": ', b'"seed": 1', 1))
    data = load_study(study)
    assert data.damaged == ("test.json is damaged: it does not match its checksum",) and data.unreadable == ("00003",)
    assert "test.json is damaged" in caplog.text and "trials/00003: the record is broken" in caplog.text
    assert data.trials["test_accuracy"].isna().all() and 3 not in data.records


def test_compare_names_the_damaged_line_of_told(study):
    path = study / "told.csv"
    lines = path.read_text().split("\n")
    trained = max(int(line.split(",")[2]) for line in lines[1:-1])
    lines[3] = lines[3].replace(",", ",1", 1)
    path.write_text("\n".join(lines))
    with pytest.raises(SpaceError, match=r"told\.csv: line 4 is damaged.*command again"):
        load_contenders([str(study)])
    again(study)
    assert len(load_contenders([str(study)])[0].curves[0]) == 8
    assert max(int(line.split(",")[2]) for line in path.read_text().split("\n")[1:-1]) == trained


def test_a_damaged_copy_of_the_space_is_named(study):
    path = study / "space.yaml"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"task", b"tAsk", 1))
    with pytest.raises(SpaceError, match=r"copy of its space is damaged.*remove .*space\.yaml and give"):
        again(study)
    path.write_bytes(whole.replace(b"0.01", b"0.02", 1))
    with pytest.raises(SpaceError, match=r"(?s)another space.*If .*space\.yaml is damaged, remove it"):
        again(study)
    with pytest.raises(SpaceError, match="not the space of this search"):
        confirm(study, lab=FakeLab)
    path.unlink()
    assert again(study, "search.trials=9").finished == 9 and path.exists()


def test_other_data_are_refused_with_what_differs(study):
    assert json.loads((study / "fingerprint.json").read_text())["data train x"] == "(100, 8, 8) float32"
    (study.parent / "data").write_text("(105, 8, 8) float32")
    with pytest.raises(
        SpaceError, match=r"(?s)other data or code.*-data train x: \(100, .*\+data train x: \(105"
    ) as no:
        again(study, "search.trials=9")
    assert len(started(study.parent)) == 8
    remove = re.search(r"remove (\S+fingerprint\.json)", str(no.value))
    assert remove is not None
    Path(remove[1]).unlink()
    assert again(study, "search.trials=9").finished == 9


def test_a_damaged_fingerprint_is_named(study):
    path = study / "fingerprint.json"
    path.write_bytes(path.read_bytes().replace(b"100", b"101", 1))
    with pytest.raises(SpaceError, match=r"fingerprint\.json is damaged.*Remove"):
        again(study, "search.trials=9")


def test_the_users_own_files_are_part_of_the_fingerprint(box, monkeypatch):
    from harness.search.sources import code

    monkeypatch.chdir(box)
    monkeypatch.syspath_prepend(box)
    package = box / "pack_of_mine"
    package.mkdir()
    for name, text in {
        "__init__": "", "data": "from .below import rows\nimport numpy\ndef make(): ...\n", "below": "rows = 90\n",
        "other": "",
    }.items():  # fmt: skip
        (package / f"{name}.py").write_text(text)
    space = space_of(box, "task={name: 'pack_of_mine.data:make'}")
    before = code(space)
    assert sorted(before) == ["code pack_of_mine/below.py", "code pack_of_mine/data.py"]
    (package / "below.py").write_text("rows = 105\n")
    after = code(space)
    assert [n for n in before if before[n] != after[n]] == ["code pack_of_mine/below.py"]


def test_the_parts_of_data_say_what_changed():
    import numpy as np

    from harness.tasks.data import assemble

    def parts(n: int, value: float = 0.0) -> dict[str, str]:
        x = np.arange(n * 4, dtype=np.float32).reshape(n, 4)
        x[0, 0] = value
        y = np.arange(n) % 2
        return assemble((x, y), (x[:10], y[:10]), validation=(x[:8], y[:8])).parts()

    first, longer, other = parts(90), parts(105), parts(90, 3.0)
    assert first == parts(90)
    assert first["train x"].startswith("(90, 4) float32 sha256 ") and first["train labels"].startswith("[45, 45] ")
    assert {n for n in first if first[n] != longer[n]} == {"train x", "train labels", "normalization"}
    assert "train x" in {n for n in first if first[n] != other[n]} and first["train labels"] == other["train labels"]


def test_flipped_bits_in_any_file_are_noticed_or_harmless():
    """A seeded sample of ``make chaos ARGS=flips``."""
    found = list(flips_in(seed=23, count=8))
    assert len(found) == 8 and not any(what for _, what in found), [case for case in found if case[1]]


def test_check_of_a_study_without_its_record_names_it(study):
    front = json.loads((study / "study.json").read_text())["front"]
    (study / "trials" / f"{front[0]:05d}" / "record.json").write_bytes(b"{")
    with pytest.raises(SpaceError, match=rf"records of trials \[{front[0]}\] of the front are lost or broken"):
        check(study)


OLDER = "`regularise` is spelled `regularize`."


def respelled(study: Path) -> None:
    """The study as a version left it that spelled `regularize` otherwise, in every trial's record."""
    for path in sorted(study.glob("trials/*/record.json")):
        record = json.loads(path.read_text())
        del record["crc32"]
        prune = record["recipe"]["prune"]
        prune["regularise"] = prune.pop("regularize")
        write_checked_json(path, record)


@pytest.mark.parametrize("rebuild", [False, True])
def test_a_study_of_an_older_spelling_is_answered_with_the_new_one(study, rebuild):
    respelled(study)
    with pytest.raises(SpaceError, match=f"record.json: prune.regularise: .*{OLDER}.*Choose another --study"):
        again(study, "search.trials=9", rebuild=rebuild)
    assert len(started(study.parent)) == 8


def test_an_older_spelling_in_the_copy_of_the_space_is_answered_with_the_new_one(study):
    path = study / "space.yaml"
    path.write_text(path.read_text() + "\nprune: {kind: none, regularise: l1}\n")
    with pytest.raises(SpaceError, match=rf"space.yaml:\d+: prune.regularise: .*{OLDER} Choose another --study"):
        again(study)


@pytest.mark.parametrize("verb", ["check", "confirm", "report", "status"])
def test_the_verbs_answer_a_study_of_an_older_spelling(study, verb):
    respelled(study)
    ended = CliRunner().invoke(app, [verb, str(study)])
    assert isinstance(ended.exception, SystemExit | None), ended.exception
    if verb in ("check", "confirm"):
        assert ended.exit_code == 2 and OLDER in " ".join(ended.output.split())
