"""Stopped trials that are resumed, in the driver's loop on the fake trials of ``tests.searching``."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from harness.records import CONTINUES, read_record
from harness.report import load_study
from harness.search.budget import Budget
from harness.search.counts import Counts
from harness.search.jobs import Finished
from harness.search.rungs import Never
from harness.search.state import LAST, Search
from harness.search.study import Study
from tests.searching import SPACE, Here, run, search_here, space_of, trials_of

LONG = "train.epochs=20"


class Hasty(Never):
    """Stops trials 6 and 7 after their first epoch and, if ``sorry``, would let 6 go on."""

    uses_costs = True
    resumes = True

    def __init__(self, sorry: bool = True):
        self.sorry, self.paused, self.begun = sorry, {}, {}

    def begin(self, number, curve):
        self.begun[number] = curve

    def rungs(self, total):
        return {1: 1, 5: 5}

    def decide(self, number, rung, accuracy):
        return "told to" if number in (6, 7) and rung == 1 else ""

    def learn(self, number, curve, final, feasible):
        if final is None:
            self.paused[number] = curve

    def due(self):
        return [6] if self.sorry and 6 in self.paused else []

    def resume(self, number):
        curve = self.paused.pop(number, None)
        return None if curve is None else replace(curve, resumed=True)


@pytest.fixture
def hasty() -> Hasty:
    return Hasty()


def record_of(box: Path, number: int):
    return read_record(box / "study" / "trials" / f"{number:05d}")


def continuing(box: Path) -> list:
    return [t for t in trials_of(box / "study") if CONTINUES in t.user_attrs]


def test_a_stopped_trial_goes_on_as_another_from_where_it_stood(box, hasty):
    outcome = run(box, LONG, make_rule=lambda _: hasty)
    [after] = continuing(box)
    trials, first, second = trials_of(box / "study"), record_of(box, 6), record_of(box, after.number)
    assert after.state is TrialState.COMPLETE and trials[6].state is TrialState.PRUNED, "what was told stays told"
    assert after.number >= 14 and after.params == trials[6].params and after.user_attrs[CONTINUES] == 6
    assert second.recipe == first.recipe and second.seed == first.seed, "it repeats alone, by its recipe"
    assert second.diagnostics[CONTINUES] == 6 and [r.diagnostics["epochs"] for r in (first, second)] == [1, 19]
    assert list(second.diagnostics["rungs"]) == ["1", "5"] and second.value("latency_ms") == first.value("latency_ms")
    assert hasty.begun[after.number].resumed and set(hasty.paused) == {7}
    assert outcome.finished == 14 and outcome.stopped == 1 and outcome.failed == 0
    rows = load_study(box / "study").trials
    assert rows["status"].value_counts().to_dict() == {"ok": 13, "stopped": 1, "continued": 1}
    assert rows.loc[6, "reason"] == f"after epoch 1 of 20, told to; resumed as trial {after.number}"
    assert rows.loc[after.number, "reason"] == "resumes trial 6"
    summary = json.loads((box / "study" / "study.json").read_text())
    assert summary["epochs"] == 13 * 20 + 1, "twelve, the one in two parts, and the first epoch of 7"


def test_a_trial_may_be_stopped_and_taken_up_more_than_once(box, hasty):
    stops = hasty.decide
    hasty.due = lambda: [n for n in hasty.paused if n != 7]
    hasty.decide = lambda number, rung, a: "again" if (number, rung) == (14, 5) else stops(number, rung, a)
    outcome = run(box, LONG, make_rule=lambda _: hasty)
    assert [(t.user_attrs[CONTINUES], t.state.name) for t in continuing(box)] == [(6, "PRUNED"), (14, "COMPLETE")]
    assert [record_of(box, n).diagnostics["epochs"] for n in (6, 14, 15)] == [1, 4, 15]
    assert list(record_of(box, 15).diagnostics["rungs"]) == ["1", "5"]
    assert outcome.finished == 14 and outcome.stopped == 1
    counts = load_study(box / "study").trials["status"].value_counts().to_dict()
    assert counts == {"ok": 13, "stopped": 1, "continued": 2}
    again = run(box, LONG, "search.trials=15", make_rule=lambda _: hasty)
    assert again.finished == 15 and again.stopped == 1 and len(continuing(box)) == 2


def test_a_resumed_study_knows_what_has_gone_on(box, hasty):
    run(box, LONG, make_rule=lambda _: hasty)
    (box / "study" / "study.log").write_bytes(b"")
    outcome = run(box, LONG, "search.trials=16", rebuild=True, make_rule=lambda _: hasty)
    assert outcome.finished == 16 and outcome.stopped == 1 and len(continuing(box)) == 1


def test_a_second_chance_that_was_killed_comes_again(box, hasty):
    hasty.sorry = False
    run(box, LONG, make_rule=lambda _: hasty)
    study = Study(space_of(box, LONG), box / "study")
    left = study.continue_trial(record_of(box, 6), kept=False)  # a driver that died now leaves it RUNNING
    assert left.epochs == 20 and replace(left, kept=True).epochs == 19
    hasty.sorry = True
    outcome = run(box, LONG, "search.trials=15", make_rule=lambda _: hasty)
    killed, after = continuing(box)
    assert killed.state is TrialState.FAIL and after.state is TrialState.COMPLETE
    assert outcome.finished == 15 and outcome.stopped == 1
    assert sum(t.params == killed.params for t in trials_of(box / "study")) == 3, "not queued as a recipe of its own"


class Dying(Here):
    """The worker dies under the first ``deaths`` second chances."""

    def __init__(self, deaths: int):
        super().__init__()
        self._deaths = deaths

    def wait(self, timeout_s):
        continues = self._jobs and self._jobs[0][1] == "start" and self._jobs[0][2][0][0].continues is not None
        if not continues or not self._deaths:
            return super().wait(timeout_s)
        self._deaths -= 1
        return [Finished(self._jobs.pop(0)[0], error="the worker died", died=True)]


@pytest.mark.parametrize(("deaths", "states"), [(1, ["FAIL", "COMPLETE"]), (9, ["FAIL", "FAIL", "FAIL"])])
def test_a_dead_worker_costs_a_second_chance_no_more_than_another_trial(box, hasty, deaths, states):
    space = space_of(box, LONG, "search.retries=2")
    outcome = search_here(space, box / "study", make_pool=lambda *_: Dying(deaths), make_rule=lambda _: hasty)
    assert [t.state.name for t in continuing(box)] == states
    assert outcome.finished == 14 and outcome.stopped == (1 if "COMPLETE" in states else 2)
    assert outcome.failed == (states[-1] == "FAIL") and set(hasty.paused) == {7}, "in the end it is given up"


class Homely(Here):
    """Answers come from slot 1, which is busy for a while after the trial was stopped."""

    def __init__(self):
        super().__init__()
        self.asked, self.slots = 0, []

    def idle(self, slot):
        assert slot == 1
        self.asked += 1
        return self.asked > 1

    def submit(self, job, name, *args, slot=None, **options):
        if name == "start" and args[0][0].continues is not None:
            self.slots.append(slot)
        super().submit(job, name, *args, **options)

    def wait(self, timeout_s):
        return [replace(answer, slot=1) for answer in super().wait(timeout_s)]


def test_it_goes_on_in_the_slot_that_keeps_it_once_that_is_idle(box, hasty):
    pool = Homely()
    outcome = search_here(space_of(box, LONG), box / "study", make_pool=lambda *_: pool, make_rule=lambda _: hasty)
    assert pool.slots == [1] and pool.asked == 2
    assert outcome.finished == 14 and outcome.stopped == 1


def test_second_chances_come_when_all_trials_have_begun_or_little_budget_is_left():
    def closing(budget: Budget, epochs: int, finished: int = 0, asked: bool = False) -> bool:
        counts, stop = Counts(finished=finished, epochs=epochs), SimpleNamespace(asked=asked)
        return Search(*[None] * 6, stop, budget, *[None] * 3, counts).closing

    assert not closing(Budget(60), 500, 59) and closing(Budget(60), 500, 60)
    assert not closing(Budget(60), 500, 60, asked=True)
    late = int(1000 * (1 - LAST))
    assert not closing(Budget(None, epochs=1000), late - 1) and closing(Budget(None, epochs=1000), late)
    assert not closing(Budget(None, epochs=1000), 1000), "an epoch more than was asked for is too many"


def test_second_chances_stay_within_the_epochs(box, hasty):
    hasty.decide = lambda number, rung, a: "told to" if number >= 6 and rung == 1 and number < 30 else ""
    hasty.due = lambda: sorted(hasty.paused)
    text = SPACE.replace("trials: 14, ", "epochs_total: 200, ")
    space = space_of(box, LONG, text=text)
    search_here(space, box / "study", make_rule=lambda _: hasty)
    summary = json.loads((box / "study" / "study.json").read_text())
    assert len(hasty.paused) > 3, "or they were all that there was"
    assert len(continuing(box)) >= 2 and 200 <= summary["epochs"] <= 240
