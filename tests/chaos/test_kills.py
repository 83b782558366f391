"""The driver killed, torn off and refused at its file operations: some of :mod:`tests.chaos.strikes`.

``make chaos`` strikes at every one.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

from harness.errors import MAX_REASON, SpaceError
from harness.records import TrialRecord, read_record
from harness.search.signals import Interrupted, Stop
from harness.trial.outcome import caught
from tests import fake_trial
from tests.chaos import strikes
from tests.chaos.disk import MODES
from tests.oracle import SPACE, Snapshot, violations
from tests.searching import FakeLab, run, trials_of

pytestmark = pytest.mark.slow
STRIKES = {"kill": 12, "torn": 4, "full": 4, "readonly": 4, "stop": 4, "twice": 4}


@cache
def _sampled(parent: Path) -> dict[str, list[int]]:
    """Where to strike: seeded, spread over the whole search."""
    strikes.search_in(strikes.new_box(parent))  # what it imports, the forked ones have
    names, draw = strikes.operations(parent), random.Random(22)
    spread = {}
    for mode, count in STRIKES.items():
        points = strikes.points_of(names, mode)
        edges = [round(i * len(points) / count) for i in range(count + 1)]
        spread[mode] = [draw.choice(points[low:high]) for low, high in zip(edges, edges[1:], strict=False)]
    return spread


@pytest.mark.parametrize("mode", MODES)
def test_a_search_survives_a_strike_at_any_file_operation(mode, tmp_path_factory):
    parent = tmp_path_factory.getbasetemp()
    found = {at: strikes.attack(parent, mode, at) for at in _sampled(parent)[mode]}
    assert not any(found.values()), {at: what for at, what in found.items() if what}


def test_the_oracle_sees_what_is_wrong(tmp_path):
    """Each kind of damage to a sound study is named."""
    place = strikes.new_box(tmp_path)
    strikes.search_in(place)
    folder = place / "study"
    before = Snapshot.of(place)
    assert before.told and violations(place, before) == []

    def broken(path: str, old: str, new: str) -> set[str]:
        whole = (folder / path).read_text()
        assert old in whole
        (folder / path).write_text(whole.replace(old, new, 1))
        kinds = {found.split(":")[0] for found in violations(place, before)}
        (folder / path).write_text(whole)
        return kinds

    assert "I2" in broken("trials/00000/record.json", '"number": 0,', '"number": 0')
    assert "I1" in broken("study.log", '"state":1,"values":[0.9', '"state":1,"values":[0.8')
    assert "I3" in broken("study.log", '"state":1,"values"', '"state":0,"values"')
    assert "I5" in broken("study.json", '"front": [\n', '"front": [\n  7777,\n')
    assert "I6" in broken("trials/00002/record.json", '"width": 4', '"width": 5')
    assert "told.csv" in broken("told.csv", "\n0,", "\n99,")
    (folder / ".record.json.1.tmp").touch()
    assert any(found.startswith("left") for found in violations(place, before))


def test_a_disk_that_takes_nothing_ends_a_command_in_one_message(tmp_path):
    """A limit of no bytes a file, which the system enforces."""
    (tmp_path / "space.yaml").write_text(SPACE)
    study = tmp_path / "study"
    command = [sys.executable, "-m", "harness", "search", str(tmp_path / "space.yaml"), "--out", str(study)]
    limited = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0))
    ended = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, timeout=200)
    assert ended.returncode == 1 and ended.stdout == ""
    _, said = ended.stderr.splitlines()  # after the line about the space
    assert said.startswith(f"harness: {study}: the search ended: the disk cannot be written (File too large)")
    assert "give the same command again" in said


def test_a_worker_whose_disk_is_full_fails_no_trial():
    """It would be recorded as the recipe's fault, and never tried again."""
    base = TrialRecord(number=0, status="failed", recipe={})
    with pytest.raises(OSError, match="No space left"):
        caught(base, lambda: Path("/dev/full").write_bytes(b"x" * 9))
    assert caught(base, lambda: Path("/dev/null/x").read_bytes()).reason.startswith("NotADirectoryError")


def _raises(error):
    raise error


def _from(cause):
    error = SpaceError("student.model", "must train")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), "device: RuntimeError: CUDA error"),
        (type("AcceleratorError", (RuntimeError,), {})("unspecified"), "device: AcceleratorError"),
        (_from(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")), "device: student.model"),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom: CUDA out of memory"),
        (MemoryError("1 GiB"), "oom: 1 GiB"),
        (ValueError("a CUDA error, says the user"), "ValueError"),
        (SystemExit(3), "SystemExit: 3"),
        (ValueError("x" * 5_000_000), "ValueError: xxx"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_trial_says_in_few_words_what_ended_it(error, reason):
    """A process that has seen a CUDA error is not used again, so it is told from a full memory."""
    record = caught(TrialRecord(number=0, status="failed", recipe={}), _raises, error)
    assert record.reason.startswith(reason) and len(record.reason) <= MAX_REASON + len("device: ")


@pytest.mark.parametrize("damage", ["record.json", "model.onnx"])
def test_a_damaged_trial_of_the_front_is_named_and_repeated(box, caplog, damage):
    first = run(box)
    number = next(n for n in first.front if n > 3)
    path = box / "study" / "trials" / f"{number:05d}" / damage
    path.write_bytes(path.read_bytes()[:-9])
    again = run(box)
    assert f"trials/{number:05d}" in caplog.text and "damaged" in caplog.text
    assert again.status == "complete" and again.finished == 14 and number not in again.front
    [repeated] = [t for t in trials_of(box / "study") if t.user_attrs.get("retry_of") == number]
    assert repeated.params == trials_of(box / "study")[number].params
    assert repeated.number in again.front, "the same recipe stands where the damaged one stood"
    assert run(box).status == "already complete"


def test_a_damaged_baseline_runs_again(box):
    run(box)
    (box / "study" / "trials" / "00002" / "record.json").write_bytes(b"{")
    run(box, "search.trials=15")
    baselines = [t.number for t in trials_of(box / "study") if t.user_attrs.get("baseline_index") == 2]
    assert len(baselines) == 2 and read_record(box / "study" / "trials" / f"{baselines[1]:05d}") is not None


def test_two_signals_in_one_long_call_are_two():
    """The interpreter sees no signal while a call outside of Python lasts."""
    sender = f"sleep 0.3; kill -INT {os.getpid()}; sleep 0.1; kill -TERM {os.getpid()}; kill -INT {os.getpid()}"
    with Stop() as stop:
        stop.drain()
        assert not stop.asked and stop.exit_code == 0
        with subprocess.Popen(["sh", "-c", sender]) as sent:
            while sent.poll() is None:
                sum(range(10_000_000))
        assert stop.asked and stop.now and stop.exit_code == 130
    with Stop() as another:
        another.drain()
        os.kill(os.getpid(), signal.SIGTERM)
        assert another.asked and not another.now and another.exit_code == 143
    assert stop.now, "it still knows when it is over"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_twice_in_one_long_call_is_two(number):
    sender = f"sleep 0.2; kill -{int(number)} {os.getpid()}; sleep 0.1; kill -{int(number)} {os.getpid()}"
    with Stop() as stop, subprocess.Popen(["sh", "-c", sender]):
        stop.drain()
        sum(range(150_000_000))
    assert stop.now and stop.exit_code == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_until_it_drains_a_signal_ends_what_is_waited_for_and_the_next_one_disturbs_nothing(number):
    with Stop() as stop:
        with pytest.raises(Interrupted) as raised:
            os.kill(os.getpid(), number)
            time.sleep(60)
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert raised.value.exit_code == 128 + number and stop.asked


def test_the_second_signal_ends_what_cannot_be_asked_to_stop():
    with Stop() as stop:
        stop.drain()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted), stop.twice_ends():
            assert stop.asked and not stop.now
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        assert stop.now


class SlowLab(FakeLab):
    """Is interrupted in its first measurement, which would take a minute."""

    def measure(self, *given, **more):
        if not self.timed:
            self.timed.append("one")
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        return super().measure(*given, **more)


def test_ctrl_c_twice_while_the_lab_measures_ends_at_once(box):
    started = time.monotonic()
    outcome = run(box, lab=SlowLab)
    assert (outcome.status, outcome.exit_code) == ("interrupted", 130) and time.monotonic() - started < 30
    assert run(box).finished == 14
    assert not [t for t in trials_of(box / "study") if t.state is TrialState.RUNNING]


def test_ctrl_c_while_preparing_ends_the_search(box, monkeypatch):
    monkeypatch.setattr(fake_trial, "prepare", lambda *_: os.kill(os.getpid(), signal.SIGINT) or time.sleep(60))
    with pytest.raises(KeyboardInterrupt):
        run(box)
    monkeypatch.undo()
    monkeypatch.setenv("HARNESS_FAKE", str(box))
    assert run(box).finished == 14
