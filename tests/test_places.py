"""Disks and folders that take nothing: one message, an orderly end."""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
from collections.abc import Iterator

import pytest
from optuna.study import StudyDirection
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import DiskError, SpaceError
from harness.files import folders
from harness.search.database import Database
from tests.searching import run

UNUSABLE = {"a file": "/dev/null", "not there": "/proc/nothing/here"}


@pytest.fixture
def homeless(monkeypatch):
    for name in ("HARNESS_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("home", UNUSABLE.values(), ids=list(UNUSABLE))
@pytest.mark.parametrize("verb", ["search", "train"])
def test_a_home_that_takes_no_files_ends_a_command_in_one_message(homeless, tmp_path, home, verb):
    homeless.setenv("HOME", home)
    (tmp_path / "it.yaml").write_text(
        "task: {name: digits}\nstudent: {model: mlp, hidden: [8]}\ntrain: {epochs: 1"
        + (", lr: {float: [0.01, 0.3]}}" if verb == "search" else "}")
    )
    ended = CliRunner().invoke(app, [verb, str(tmp_path / "it.yaml"), "--out", str(tmp_path / "out")])
    lines = 2 if verb == "search" else 1  # a search first says that its space is in order
    assert ended.exit_code == 2 and len(ended.output.splitlines()) == lines, ended.output
    assert "HARNESS_CACHE: cannot be written (" in ended.output and home in ended.output
    assert "Set HARNESS_CACHE to a folder that can be written" in ended.output
    assert not (tmp_path / "out").exists()


def test_a_user_without_a_home_is_told_so(homeless, tmp_path):
    """As the system answers for a user that it does not know."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    homeless.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(SpaceError, match="HOME: is not set.*Set HOME to a folder"):
        folders.check_cache()
    homeless.setenv("HARNESS_CACHE", str(tmp_path))
    folders.check_cache()
    homeless.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(SpaceError, match="HOME: is not set"):
        folders.check_home()


def test_ray_needs_a_home_only_where_it_has_no_token(homeless, tmp_path):
    homeless.delenv("RAY_AUTH_MODE", raising=False)
    homeless.setenv("HOME", "/dev/null")
    with pytest.raises(SpaceError, match="Ray keeps its token there"):
        folders.check_home()
    homeless.setenv("RAY_AUTH_TOKEN", "x" * 64)
    folders.check_home()
    homeless.delenv("RAY_AUTH_TOKEN")
    homeless.setenv("HOME", str(tmp_path))
    folders.check_home()


def test_old_temporary_files_of_the_cache_are_removed(box, monkeypatch):
    cache = box / "cache"
    (cache / "graphs").mkdir(parents=True)
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    old, new, other = cache / "graphs" / ".a.123.tmp", cache / ".b.456.tmp", cache / "mine.7.tmp"
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    run(box, "search.trials=1")
    assert not old.exists() and new.exists() and other.exists()


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """The system takes no byte more in any file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_a_report_in_one_message(box):
    run(box, "search.trials=5")
    with full_disk():
        ended = CliRunner().invoke(app, ["report", str(box / "study")])
    assert ended.exit_code == 1 and len(ended.output.splitlines()) == 1, ended.output
    assert "File too large" in ended.output and "Make room" in ended.output


def test_a_full_disk_below_a_database_is_no_reason_to_wait(box):
    """SQLite says it in its own words."""
    storage = Database(make_url(f"sqlite:///{box}/study.db"))
    with full_disk(), pytest.raises(DiskError, match="study.db: .*(full|I/O)"):
        storage.create_new_study([StudyDirection.MINIMIZE], "study")
