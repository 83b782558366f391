"""The driver's loop on a pool in this process, with a trial module that trains nothing."""

import json
import os
import shutil
from typing import get_args

import optuna
import pytest
from optuna.samplers import GPSampler, NSGAIISampler, QMCSampler, RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from harness.errors import SpaceError
from harness.records import read_record
from harness.search.samplers import RecentTPE
from harness.search.storage import Journal, open_storage
from harness.space.settings import Sampler
from harness.trial.job import TrialJob
from tests import fake_trial
from tests.searching import SPACE, FakeLab, run, search_here, space_of, started, trials_of


def test_a_search_leaves_a_whole_study(box):
    lab = FakeLab()
    outcome = run(box, lab=lambda: lab)
    folder = box / "study"
    assert outcome.status == "complete" and outcome.finished == 14 and outcome.failed == 0
    trials = trials_of(folder)
    complete = [t for t in trials if t.state is TrialState.COMPLETE]
    assert len(complete) == 14 and not [t for t in trials if t.state is TrialState.RUNNING]
    for t in complete:
        record = read_record(folder / "trials" / f"{t.number:05d}")
        assert t.values == [record.value(n) for n in ("accuracy", "size_bytes", "latency_ms")]
        assert json.loads(t.user_attrs["recipe"]) == record.recipe
    assert [t.user_attrs.get("baseline") for t in complete[:4]] == [
        "widest-fp32",
        "widest-int8",
        "width-sweep",
        "width-sweep",
    ]
    assert len(lab.timed) == 4  # three structures and the teacher: once each
    summary = json.loads((folder / "study.json").read_text())
    assert summary["front"] == outcome.front and summary["reference"]["accuracy"] == 0.5
    assert set(json.loads((folder / "importances.json").read_text())["accuracy"]) >= {"student.width", "quant.bits"}
    tested = (box / "tested").read_text().split()
    assert len(tested) == len(set(tested)) and {int(n) for n in tested} >= {*outcome.front, 0, 1, 2, 3}
    told = [line.split(",") for line in (folder / "told.csv").read_text().splitlines()[1:]]
    assert sorted(int(n) for n, *_ in told) == list(range(14)) and int(told[-1][2]) == summary["epochs"] == 14
    assert [float(s) for _, s, *_ in told] == sorted(float(s) for _, s, *_ in told)


def test_the_journal_is_one_that_optuna_reads_and_continues(box):
    run(box)
    folder = box / "study"
    theirs = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    study = optuna.load_study(study_name="study", storage=theirs)
    assert [(t.state, t.params, t.values, t.user_attrs) for t in study.get_trials()] == [
        (t.state, t.params, t.values, t.user_attrs) for t in trials_of(folder)
    ]
    study.tell(study.ask(), [0.5, 1.0, 1.0])
    assert trials_of(folder)[-1].values == [0.5, 1.0, 1.0]


def test_a_journal_reads_on_from_where_it_was_and_again_from_before(tmp_path):
    journal = Journal(tmp_path / "study.log")
    logs = [{"op_code": 8, "user_attr": {"name": i}} for i in range(5)]
    journal.append_logs(logs[:3])
    assert list(journal.read_logs(0)) == logs[:3] and list(journal.read_logs(3)) == []
    journal.append_logs(logs[3:])
    with open(tmp_path / "study.log", "ab") as file:
        file.write(b'{"op_code": 8, "user_')  # being written
    assert list(journal.read_logs(3)) == logs[3:]
    assert list(journal.read_logs(1)) == logs[1:]
    assert list(journal.read_logs(5)) == []


def test_no_recipe_runs_twice_and_an_exhausted_space_ends(box):
    text = (
        SPACE.replace("{float: [0.01, 0.3], log: true}", "0.1")
        .replace("{float: [0, 1]}", "0.5")
        .replace("{float: [0.1, 10], log: true}", "1.0")
    )
    space = space_of(box, "search.trials=100", text=text)
    outcome = search_here(space, box / "study")
    assert outcome.status == "exhausted"
    keys = [
        t.user_attrs["recipe"].rpartition('"seed"')[0]
        for t in trials_of(box / "study")
        if t.state is TrialState.COMPLETE
    ]
    assert len(keys) == len(set(keys))
    assert 24 <= outcome.finished <= 24 + 5  # every combination, and baselines outside of the space


def test_a_moved_study_goes_on(box):
    before = run(box)
    (box / "study").rename(box / "moved")
    shutil.copytree(box / "moved" / "trials" / "00003", box / "moved" / "trials" / "00003 as it was")
    after = run(box, "search.trials=18", name="moved")
    assert after.finished == 18 and before.finished == 14
    assert len(started(box)) == len(set(started(box))) == 18, "none of the first 14 ran again"
    [study] = optuna.get_all_study_summaries(open_storage(None, box / "moved"))
    assert study.study_name == "study"


@pytest.mark.parametrize(("journal", "unknown"), [("gone", 14), ("an older one", 8)])
def test_trials_that_the_journal_does_not_know_are_not_overwritten(box, journal, unknown):
    run(box, "search.trials=6")
    folder, older = box / "study", (box / "study" / "study.log").read_bytes()
    run(box)
    record = (folder / "trials" / "00013" / "record.json").read_bytes()
    (folder / "study.log").unlink() if journal == "gone" else (folder / "study.log").write_bytes(older)
    with pytest.raises(SpaceError, match=rf"holds {unknown} trials that its study 'study' does not know.*--rebuild"):
        run(box, "search.trials=18")
    assert (folder / "trials" / "00013" / "record.json").read_bytes() == record
    assert run(box, "search.trials=18", rebuild=True).finished == 18
    assert len(started(box)) == 18


def test_the_same_command_says_complete_then_continues_with_more_trials(box):
    run(box)
    again = run(box)
    assert again.status == "already complete" and again.finished == 14
    more = run(box, "search.trials=20")
    assert more.status == "complete" and more.finished == 20
    assert len(started(box)) == len(set(started(box))) == 20


def test_another_space_is_refused_with_the_difference(box):
    run(box)
    with pytest.raises(SpaceError, match=r"another space: train\.lr\.float was .*0\.3\], now .*0\.2\]\. Choose"):
        search_here(space_of(box, text=SPACE.replace("0.3]", "0.2]")), box / "study")


def test_only_what_identifies_a_study_is_named_as_a_difference(box):
    run(box, "search.trials=6")
    changed = space_of(box, "search.trials=9", "task.split_seed=4")
    with pytest.raises(SpaceError, match=r"another space: task\.split_seed was absent, now 4\. Choose"):
        search_here(changed, box / "study")


def test_a_failure_in_preparing_leaves_nothing(box):
    with pytest.raises(SpaceError, match="bad luck"):
        run(box, "task.split_seed=13")
    assert not (box / "study").exists()


def test_broken_constraints_are_pruned_and_never_on_the_front(box):
    text = SPACE + "constraints: {accuracy: {min: 0.8}, size_bytes: {max: 300}}\n"
    space = space_of(box, text=text)
    outcome = search_here(space, box / "study")
    trials = trials_of(box / "study")
    assert {t.state for t in trials} >= {TrialState.PRUNED, TrialState.COMPLETE}
    assert any("baseline" in t.user_attrs and t.user_attrs["size_bytes"] > 300 for t in trials)
    for t in trials:
        if t.state in (TrialState.COMPLETE, TrialState.PRUNED):
            trained = "accuracy" in t.user_attrs
            assert trained or t.user_attrs["size_bytes"] > 300, "what is too large never trains"
            assert trained or "baseline" not in t.user_attrs, "but a baseline does: it is drawn in the report"
            feasible = trained and t.user_attrs["accuracy"] >= 0.8 and t.user_attrs["size_bytes"] <= 300
            assert (t.state is TrialState.COMPLETE) == feasible
            assert feasible or t.number not in outcome.front
            assert all(v <= 0 for v in t.constraints.values()) == feasible


def test_failed_trials_are_told_with_their_reason_and_do_not_count(box):
    for number in (1, 5):
        (box / f"fail-{number}").touch()
    outcome = run(box)
    assert outcome.finished == 14 and outcome.failed == 2
    failed = [t for t in trials_of(box / "study") if t.user_attrs.get("final")]
    assert [t.number for t in failed] == [1, 5] and "nonfinite" in failed[0].user_attrs["reason"]


def test_open_trials_of_a_killed_driver_are_settled(box):
    """One has its record (it is told, not run again), one has none (it is run again)."""
    run(box, "search.trials=8")
    folder = box / "study"
    study = optuna.load_study(study_name="study", storage=open_storage(None, folder))
    space = space_of(box)
    done, lost = study.ask(), study.ask()
    donor = trials_of(folder)[7]
    for trial in (done, lost):
        for hole in space.holes:
            if hole.internal in donor.params:
                trial._suggest(hole.internal, donor.distributions[hole.internal])
    recipe = space.fill({h.internal: h.default for h in space.holes if not h.parents}, seed=5)
    fake_trial.run(TrialJob(recipe, done.number, folder / "trials" / f"{done.number:05d}"), {})
    (folder / "study.json").unlink()
    before = len(started(box))
    outcome = run(box, "search.trials=12")
    assert outcome.finished == 12
    trials = {t.number: t for t in trials_of(folder)}
    assert trials[done.number].state is TrialState.COMPLETE
    assert trials[lost.number].state is TrialState.FAIL
    assert [t.user_attrs["retry_of"] for t in trials.values() if "retry_of" in t.user_attrs] == [lost.number]
    assert not [t for t in trials.values() if t.state is TrialState.RUNNING]
    assert len(started(box)) - before == 3


@pytest.mark.parametrize(("cut", "more"), [(1, b""), (7, b""), (30, b""), (30, b"}\n")])
def test_a_torn_journal_is_repaired(box, cut, more):
    run(box, "search.trials=8")
    journal = box / "study" / "study.log"
    journal.write_bytes(journal.read_bytes()[:-cut] + more)
    (box / "study" / "study.json").unlink()
    outcome = run(box, "search.trials=10")
    assert outcome.finished == 10
    assert not [t for t in trials_of(box / "study") if t.state is TrialState.RUNNING]


@pytest.mark.parametrize("damage", [lambda line: b"#" + line, lambda line: line[:1] + b"#" + line[1:]])
def test_a_damaged_journal_is_refused_and_rebuilt_from_the_records(box, damage):
    first = run(box, "search.trials=10")
    journal = box / "study" / "study.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[5] = damage(lines[5])
    journal.write_bytes(b"".join(lines))
    with pytest.raises(SpaceError, match=r"line 6 .*damaged.*--rebuild"):
        run(box, "search.trials=12")
    outcome = run(box, "search.trials=12", rebuild=True)
    assert outcome.finished == 12
    assert len(started(box)) == len(set(started(box))) == 12
    rebuilt = {t.number: t.values for t in trials_of(box / "study") if t.state is TrialState.COMPLETE}
    assert set(first.front) <= set(rebuilt)


SAMPLERS = {
    "tpe": RecentTPE,
    "nsga2": NSGAIISampler,
    "gp": GPSampler,
    "sobol": QMCSampler,
    "random": RandomSampler,
}


def test_every_sampler_is_known_here():
    assert set(SAMPLERS) == {*get_args(Sampler)} - {"auto"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_sampler_that_is_named_proposes(box, monkeypatch, name):
    kind, asked = SAMPLERS[name], []
    propose = kind.sample_relative
    monkeypatch.setattr(kind, "sample_relative", lambda self, *given: asked.append(self) or propose(self, *given))
    assert run(box, f"search.sampler={name}").finished == 14
    assert asked and {type(sampler) for sampler in asked} == {kind}


def test_a_second_driver_is_refused_and_named(box):
    from harness.search.lock import run_lock

    with run_lock(box / "study"), pytest.raises(SpaceError, match=rf"another search runs.*pid {os.getpid()}"):
        run(box)
    assert run(box).finished == 14


def test_sqlite_works_and_a_bad_url_is_explained(box):
    assert run(box, f"search.storage=sqlite:///{box}/x.db", "search.trials=6").finished == 6
    with pytest.raises(SpaceError, match="cannot be opened"):
        run(box, "search.storage=postgresql://me:secret@localhost:1/none", name="other")
