"""A sample of what ``make chaos`` does with folders and files from somebody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import foreign, fuzz

pytestmark = pytest.mark.slow


def test_odd_files_in_a_study_are_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    study = foreign.make_study(tmp_path)
    quick = ("status", "pick", "report")  # the others load a runtime or start Ray where nothing is wrong
    cases = [("status", "study.json", odd) for odd in foreign.ODD]
    cases += [(verb, place, odd) for verb, place, odd in foreign.all_cases() if verb in quick][::61]
    cases += [("report", place, "link to a folder") for place in foreign.FOLDERS]
    broken = {case: found for case in cases if (found := foreign.strike(study, *case))}
    assert broken == {}


def test_altered_inputs_are_read_or_refused_within_bounds() -> None:
    broken = [(where, what) for where, what in fuzz.inputs(count=15) if what]
    assert broken == []
