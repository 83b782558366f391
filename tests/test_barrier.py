"""When results reach the study: not held back for the lab, and not thrown away for a late answer."""

from __future__ import annotations

import json

import pytest
from optuna.trial import TrialState

from harness.search.jobs import Finished
from tests.searching import SPACE, Here, search_here, space_of, trials_of

CREATE_TRIAL, SET_STATE = 4, 6  # Optuna's JournalOperation
ASKS = 6  # per slot, between two results: four that wait for the lab, one that runs, one that is asked ahead


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("widths", [1, 2, 3, 5, 20])
def test_a_result_reaches_the_sampler_soon_for_any_number_of_structures(box, widths, slots):
    text = SPACE.replace("[4, 8, 16]", str([4 * (i + 1) for i in range(widths)])).replace("width: 16", "width: 80")
    space = space_of(box, "search.trials=40", "search.sampler=random", text=text)
    search_here(space, box / "study", make_pool=lambda *_: Here(slots))
    asked, most = 0, 0
    for line in (box / "study" / "study.log").read_text().splitlines():
        entry = json.loads(line)
        if entry["op_code"] == CREATE_TRIAL:
            asked += 1
            most = max(most, asked)
        elif entry["op_code"] == SET_STATE and entry["state"] in (TrialState.COMPLETE, TrialState.PRUNED):
            asked = 0
    assert most <= ASKS * slots


class Late(Here):
    """Trial 5's answer came after its time: its worker was ended, its record was whole."""

    def wait(self, timeout_s):
        return [Finished(a.job, error="timeout: no result after 9 s") if a.job == 5 else a for a in super().wait(0)]


def test_a_record_that_was_whole_before_the_time_limit_counts(box):
    outcome = search_here(space_of(box), box / "study", make_pool=lambda *_: Late())
    assert outcome.finished == 14 and outcome.failed == 0
    assert trials_of(box / "study")[5].state is TrialState.COMPLETE
