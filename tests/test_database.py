"""Studies in a database: locked, cut off, restarted, shared by folders of one name."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState
from sqlalchemy.engine.default import DefaultDialect

from harness.errors import HarnessError, SpaceError
from harness.records import read_record
from harness.search import database
from tests.searching import Here, run, started

OBJECTIVES = ("accuracy", "size_bytes", "latency_ms")
LOCK_S = 8.0  # SQLite itself waits 5


def trials_in(url: str, name: str = "study") -> list[optuna.trial.FrozenTrial]:
    """By Optuna's own storage."""
    return optuna.load_study(study_name=name, storage=url).get_trials()


def is_whole(url: str, folder: Path, count: int, name: str = "study") -> None:
    """Each recorded result is there once, with its values; nothing is left open."""
    trials = trials_in(url, name)
    complete = {t.number: t for t in trials if t.state is TrialState.COMPLETE}
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    assert len(complete) == count and [t.number for t in trials] == list(range(len(trials)))
    for number, trial in complete.items():
        record = read_record(folder / "trials" / f"{number:05d}")
        assert record is not None and trial.values == [record.value(n) for n in OBJECTIVES]
    recipes = [t.user_attrs["recipe"].rpartition('"seed"')[0] for t in complete.values()]
    assert len(recipes) == len(set(recipes))


def when(box: Path, count: int, strike) -> threading.Thread:
    """Do ``strike`` in a thread once ``count`` trials have begun."""

    def wait() -> None:
        while not (box / "started").exists() or len(started(box)) < count:
            time.sleep(0.01)
        strike()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def lock_before(wait: int, database: Path, monkeypatch, seconds: float | None) -> None:
    """Another connection locks the database before the ``wait``-th wait for a trial, for so long (None: to the end)."""
    waits, real = itertools.count(1), Here.wait

    def locking_wait(self, timeout_s):
        if next(waits) == wait:
            other = sqlite3.connect(database, timeout=60, isolation_level=None, check_same_thread=False)
            other.execute("BEGIN EXCLUSIVE")
            if seconds is not None:
                threading.Timer(seconds, lambda: other.execute("COMMIT")).start()
            else:
                OPEN.append(other)
        return real(self, timeout_s)

    monkeypatch.setattr(Here, "wait", locking_wait)


OPEN: list[sqlite3.Connection] = []  # keeps a lock: a connection that is collected gives it back


def test_a_search_waits_for_a_locked_sqlite_database(box, monkeypatch, caplog):
    url = f"sqlite:///{box}/study.db"
    lock_before(5, box / "study.db", monkeypatch, LOCK_S)
    outcome = run(box, f"search.storage={url}", "search.trials=8")
    assert outcome.finished == 8 and len(started(box)) == len(set(started(box))) == 8
    is_whole(url, box / "study", 8)
    assert "database is locked): the search waits up to 120 s" in caplog.text and "answers again" in caplog.text


def test_a_database_that_stays_locked_ends_the_search_which_goes_on_later(box, monkeypatch):
    url = f"sqlite:///{box}/study.db?timeout=0.2"
    with monkeypatch.context() as patch:
        patch.setattr(database, "LIMIT_S", 1.0)
        lock_before(5, box / "study.db", patch, None)
        with pytest.raises(HarnessError, match=r"did not answer for . s \(database is locked\).*same command again"):
            run(box, f"search.storage={url}", "search.trials=8")
    OPEN.pop().execute("ROLLBACK")
    assert run(box, f"search.storage={url}", "search.trials=8").finished == 8
    is_whole(url, box / "study", 8)
    assert len(started(box)) == len(set(started(box))), "what had finished did not run again"


@pytest.mark.parametrize("every", [2, 3])
def test_no_result_is_lost_or_doubled_when_the_answer_of_a_commit_is(box, monkeypatch, every):
    """Every n-th commit of the running search fails, in turn before and after it went through."""
    url, commits = f"sqlite:///{box}/study.db", [0]
    real = DefaultDialect.do_commit

    def commit(self, connection):
        commits[0] += (box / "started").exists()
        if commits[0] % every == 0 and commits[0] // every % 2:
            real(self, connection)
        if commits[0] and commits[0] % every == 0:
            raise sqlite3.OperationalError("database is locked")
        real(self, connection)

    monkeypatch.setattr(DefaultDialect, "do_commit", commit)
    monkeypatch.setattr(database, "FIRST_S", 0.001)
    monkeypatch.setattr("random.random", lambda: 0.0)  # Optuna's own pauses
    assert run(box, f"search.storage={url}", "search.trials=7").finished == 7
    monkeypatch.setattr(DefaultDialect, "do_commit", real)
    assert commits[0] > 50
    is_whole(url, box / "study", 7)
    assert sorted(started(box)) == sorted(set(started(box)))


def test_two_folders_of_one_name_have_two_studies_in_one_database(box, caplog):
    url = f"sqlite:///{box}/study.db"
    (box / "one").mkdir()
    (box / "two").mkdir()
    assert run(box, f"search.storage={url}", "search.trials=6", name="one/digits").finished == 6
    assert "another folder" not in caplog.text
    assert run(box, f"search.storage={url}", "search.trials=7", name="two/digits").finished == 7
    assert "the database has a study of another folder called 'digits': this one is 'digits-" in caplog.text
    assert run(box, f"search.storage={url}", "search.trials=8", name="one/digits").finished == 8
    assert run(box, f"search.storage={url}", "search.trials=9", name="two/digits").finished == 9
    first, second = (s.study_name for s in optuna.get_all_study_summaries(url))
    is_whole(url, box / "one" / "digits", 8, first)
    is_whole(url, box / "two" / "digits", 9, second)


def test_a_moved_folder_keeps_its_study_in_the_database_and_a_copy_gets_its_own(box):
    url = f"sqlite:///{box}/study.db"
    run(box, f"search.storage={url}", "search.trials=6")
    (box / "study").rename(box / "moved")
    assert run(box, f"search.storage={url}", "search.trials=8", name="moved").finished == 8
    is_whole(url, box / "moved", 8)
    shutil.copytree(box / "moved", box / "copied")
    with pytest.raises(SpaceError, match=r"holds 8 trials that its study 'copied' does not know.*--rebuild"):
        run(box, f"search.storage={url}", "search.trials=9", name="copied")
    assert run(box, f"search.storage={url}", "search.trials=9", name="copied", rebuild=True).finished == 9
    is_whole(url, box / "moved", 8)
    assert len(optuna.get_all_study_summaries(url)) >= 2


def test_a_lost_database_is_made_again_from_the_records(box):
    url = f"sqlite:///{box}/study.db"
    run(box, f"search.storage={url}", "search.trials=6")
    (box / "study.db").unlink()
    with pytest.raises(SpaceError, match=r"holds 6 trials .*--rebuild"):
        run(box, f"search.storage={url}", "search.trials=8")
    assert run(box, f"search.storage={url}", "search.trials=8", rebuild=True).finished == 8
    assert len(started(box)) == len(set(started(box))) == 8


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://me:secret@localhost/x", r"its driver MySQLdb is not installed.*pip install mysqlclient"),
        ("oracle+cx_oracle://me:secret@localhost/x", r"its driver cx_Oracle is not installed.*pip install cx_Oracle"),
        ("postgres://me:secret@localhost/x", r"no kind of database 'postgres'.*Write postgresql://"),
        ("sqlite:////no/such/folder/x.db", r"unable to open database file"),
        ("nonsense with secret", r"not an Optuna URL"),
    ],
)
def test_a_database_that_cannot_be_opened_is_explained(box, url, said):
    with pytest.raises(SpaceError, match=f"cannot be opened.*{said}"):
        run(box, f"search.storage={url}")


class Server:
    """A PostgreSQL server of its own in a folder."""

    def __init__(self, folder: Path):
        # the server refuses to run as root
        self._user = ["setpriv", "--reuid", "nobody", "--clear-groups"] if os.getuid() == 0 else []
        self._data = folder / "data"
        self._data.mkdir()
        if self._user:
            shutil.chown(self._data, "nobody")
            for part in (folder, *folder.parents[:-1]):
                if part.owner() == "root" and part != Path("/tmp"):
                    part.chmod(0o755)
        self._do("initdb", "-A", "trust", "-U", "me", "--no-sync")
        self.url = f"postgresql+{DRIVER}://me@localhost:{self.port}/postgres"

    port = 54_329

    def _do(self, program: str, *arguments: str, check: bool = True) -> None:
        subprocess.run(
            [*self._user, program, "-D", str(self._data), *arguments],
            check=check, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip

    def start(self) -> None:
        self._do("pg_ctl", "-w", "-o", f"-p {self.port} -k {self._data} -F", "start")

    def stop(self) -> None:
        self._do("pg_ctl", "-m", "immediate", "stop", check=False)

    def cut(self) -> None:
        """End every connection, as a router or an administrator does."""
        others = "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
        with sqlalchemy.create_engine(self.url).connect() as own:
            own.execute(sqlalchemy.text(others))


DRIVER = next((name for name in ("psycopg", "psycopg2") if importlib.util.find_spec(name)), "")


@pytest.mark.skipif(
    not (DRIVER and shutil.which("initdb") and shutil.which("pg_ctl")),
    reason="needs a PostgreSQL server (initdb, pg_ctl) and a driver of it (psycopg)",
)
def test_a_postgresql_server_that_drops_connections_and_restarts(box, tmp_path_factory, caplog, monkeypatch):
    monkeypatch.setenv("HARNESS_FAKE_S", "0.3")
    server = Server(tmp_path_factory.mktemp("postgres"))
    server.start()

    def restart() -> None:
        server.cut()
        time.sleep(1)
        server.stop()
        time.sleep(10)
        server.start()

    strike = when(box, 4, restart)
    try:
        outcome = run(box, f"search.storage={server.url}")
        assert outcome.finished == 14
        is_whole(server.url, box / "study", 14)
        assert "the search waits up to 120 s" in caplog.text and "answers again" in caplog.text
    finally:
        strike.join(60)
        server.stop()
