"""The driver on real Ray workers, with faults injected for real; the trial module trains nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from harness.records import read_record
from harness.search.cluster import connect
from harness.search.pool import RayPool
from harness.space.settings import Resources
from tests.driving import Study, said, wait_until
from tests.searching import trials_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def test_a_killed_driver_loses_no_finished_trial_and_runs_none_twice(study: Study) -> None:
    driver = study.start(trial_s=0.4)
    study.wait_for_records(4)
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=60)
    time.sleep(2)  # what its workers still write belongs to the study too
    before = study.files()
    assert len(before) >= 4
    assert study.run() == "complete 12 0"
    assert before.items() <= study.files().items(), "no finished trial was written again"
    assert all(study.started()[number] == 1 for number in before)
    recipes = [repr(r.recipe) for n in study.files() if (r := read_record(study.folder / "trials" / f"{n:05d}"))]
    assert len(recipes) == len(set(recipes)) == 12


def test_workers_that_die_or_hang_cost_one_trial_at_most(tmp_path: Path) -> None:
    study = Study(tmp_path, trials=10, timeout_s=12)  # Ray takes seconds to report a death where cores are busy
    (study.box / "die-3").write_text("after")
    (study.box / "die-4").write_text("before")
    (study.box / "hang-5").touch()
    assert study.run() == "complete 10 1"
    started = study.started()
    assert started[3] == 1, "its record was whole: there is nothing to repeat"
    assert started[4] == 2, "it left nothing: it runs once more"
    hung = read_record(study.folder / "trials" / "00005")
    assert started[5] == 1 and hung is not None and hung.status == "failed" and "timeout" in hung.reason


@pytest.mark.long
def test_workers_import_before_their_first_trial_and_on_their_own_time(tmp_path: Path) -> None:
    study = Study(tmp_path, trials=1, timeout_s=10)
    driver = study.start(trial_s=5, import_s=12)  # one trial: the second worker is never called
    out, said = driver.communicate(timeout=200)
    assert driver.returncode == 0, said
    assert out.strip().endswith("complete 1 0"), "the imports counted as the trial's time"
    assert sum(study.started().values()) == 1
    assert len(list(study.box.glob("imported-*"))) == 3, "two workers, and the process that looks at data and networks"


def test_a_job_goes_to_the_slot_that_it_names_and_says_how_far_it_is() -> None:
    """Each slot is a process that keeps what it has: its answers say which one it was."""
    resources = Resources(slots=2)
    pool = RayPool(connect(resources, None), resources, "tests.announcing", 100)
    try:
        while pool.free < 2:
            pool.wait(1)
        pids = []
        for job, slot in enumerate((1, 1, 0, 1, None)):
            pool.submit(job, "getpid", slot=slot)
            [answer] = pool.wait(60)
            assert not answer.error and answer.slot == (slot or 0) and pool.idle(0) and pool.idle(1)
            pids.append(answer.value)
        assert pids[0] == pids[1] == pids[3] != pids[2] == pids[4]
        said: list[str] = []
        assert pool.call("steps", 3, hear=said.append) == 3
        assert said[-1] == "step 3 of 3" and set(said) <= {f"step {i} of 3" for i in (1, 2, 3)} and len(said) >= 2
    finally:
        pool.close()


def test_ctrl_c_drains_and_the_same_command_resumes(study: Study) -> None:
    driver = study.start(trial_s=0.5)
    study.wait_for_records(2)
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130 and out.startswith("interrupted"), err
    assert set(study.started()) == set(study.files()), "what had begun was let finish"
    assert study.run() == "complete 12 0"
    assert set(study.started().values()) == {1}
    records = [read_record(study.folder / "trials" / f"{n:05d}") for n in study.files()]
    assert len({r.recipe["student"]["width"] for r in records if r and r.baseline}) == 3, "no baseline was dropped"


def test_sigterm_while_preparing_ends_it_at_once_and_without_a_word_of_rays(study: Study) -> None:
    driver = study.start(HARNESS_FAKE_PREPARE_S="600")
    wait_until((study.box / "preparing").exists, "it never prepares")
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, out, said(err)) == (143, "", [])
    wait_until(lambda: not study.left(), "a process is left", 10)


@pytest.mark.long  # `make chaos` does it in every phase
def test_ctrl_c_twice_ends_at_once_and_leaves_no_process(study: Study) -> None:
    driver = study.start(trial_s=600)
    wait_until(study.started, "no trial starts")
    driver.send_signal(signal.SIGINT)
    time.sleep(0.2)
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130 and out.startswith("interrupted"), err
    wait_until(lambda: not study.left(), "a process is left", 10)


@pytest.mark.long
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_ray_that_dies_ends_the_search_in_one_line_and_the_next_one_goes_on(study: Study, name: str) -> None:
    driver = study.start(trial_s=2)
    study.wait_for_records(2)
    [victim] = [p for p in psutil.Process(driver.pid).children() if p.name() == name]
    victim.kill()
    _, err = driver.communicate(timeout=60)  # Ray may print the raylet's last lines to stdout
    before = study.files()
    assert driver.returncode == 1
    [line] = said(err)
    assert "has died" in line and "Continue with: harness" in line, line
    wait_until(lambda: not study.left(), "a process is left", 10)
    assert study.run() == "complete 12 0"
    assert before.items() <= study.files().items()
    assert not [t for t in trials_of(study.folder) if t.state is TrialState.RUNNING]


def test_a_running_cluster_is_joined_and_left_running(study: Study) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    head = [str(ray), "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    cluster = subprocess.Popen(head, env={**os.environ, "HARNESS_FAKE": str(study.box)}, **quiet)
    try:
        _answers(port)
        assert study.run(f"127.0.0.1:{port}") == "complete 12 0"
        assert cluster.poll() is None
    finally:
        cluster.terminate()
        cluster.wait(60)


def _answers(port: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("the cluster did not start")
