"""A database's password is in no file, message or log, and a search goes on without it in any."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import SpaceError
from harness.files.passwords import expanded, masked
from harness.report import load_study, write_report
from harness.search import database
from harness.search.storage import open_storage
from harness.space.space import load_space
from tests.oracle import SPACE
from tests.searching import search_here

SECRET = "s3cr3t-Pa55"
URL = f"postgresql://bob:{SECRET}@db.example/studies"


@pytest.fixture
def databases(monkeypatch: pytest.MonkeyPatch) -> dict[str, optuna.storages.BaseStorage]:
    """URL that the database was opened with -> the storage there; in place of a server."""
    opened: dict[str, optuna.storages.BaseStorage] = {}
    kept = optuna.storages.InMemoryStorage()

    def connected(url: sqlalchemy.engine.URL, give_up: object) -> optuna.storages.BaseStorage:
        return opened.setdefault(url.render_as_string(hide_password=False), kept)

    monkeypatch.setattr(database, "Database", connected)
    return opened


def _search(box: Path, storage: str, monkeypatch: pytest.MonkeyPatch, trials: int = 4) -> None:
    monkeypatch.setenv("HARNESS_FAKE", str(box))
    text = SPACE.replace("search: {", f'search: {{storage: "{storage}", ').replace("first:", f"# was {URL}\nfirst:")
    (box / "space.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["harness", "search", "space.yaml", "--storage", storage])
    space = load_space(box / "space.yaml", overrides=[f"search.trials={trials}"])
    search_here(space, box / "study")


def leaks(folder: Path) -> list[str]:
    """Files below ``folder`` that hold the password."""
    return [str(p) for p in folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


def test_a_password_in_the_url_is_used_and_kept_nowhere(
    tmp_path: Path, databases: dict, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _search(tmp_path, URL, monkeypatch)
    assert list(databases) == [URL]
    write_report(load_study(tmp_path / "study"))
    assert leaks(tmp_path / "study") == []
    assert "postgresql://bob:***@db.example/studies" in (tmp_path / "study" / "space.yaml").read_text()
    assert "--storage postgresql://bob:***@" in (tmp_path / "study" / "study.json").read_text()
    assert SECRET not in "".join(capfd.readouterr())
    _search(tmp_path, URL, monkeypatch, trials=6)  # the same command with more trials goes on
    other = load_space(tmp_path / "space.yaml", overrides=["search.seed=7"])
    with pytest.raises(SpaceError, match="another space") as caught:
        search_here(other, tmp_path / "study")
    assert SECRET not in str(caught.value)
    own = load_space(tmp_path / "study" / "space.yaml")
    with pytest.raises(SpaceError, match="holds no password: the study's files keep none"):
        search_here(own, tmp_path / "study", trials=8)


def test_a_password_in_the_environment_resumes_from_the_studys_own_space(
    tmp_path: Path, databases: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", f"{SECRET}/@:")
    _search(tmp_path, "postgresql://bob:${DB_PASSWORD}@db.example/studies", monkeypatch)
    [url] = databases
    assert make_url(url).password == f"{SECRET}/@:", "SQLAlchemy reads what the environment holds"
    own = load_space(tmp_path / "study" / "space.yaml", overrides=["search.trials=6"])
    search_here(own, tmp_path / "study")
    assert list(databases) == [url]
    write_report(load_study(tmp_path / "study"))
    assert leaks(tmp_path / "study") == []


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(SpaceError, match=r"must name an environment variable that is set, but got '\$\{NOT_SET\}'"):
        expanded("postgresql://bob:${NOT_SET}@h/db")
    monkeypatch.setenv("WHOLE", URL)
    assert expanded("${WHOLE}") == URL


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, "postgresql://bob:***@db.example/studies"),
        ("mysql+pymysql://bob:a/b c@h/db", "mysql+pymysql://bob:***@h/db"),
        ("redis://:pw@h:6379", "redis://:***@h:6379"),
        ("postgresql://bob:p@ss@h/db", "postgresql://bob:***@h/db"),
        ("postgresql://h/db?user=bob&password=pw&sslmode=on", "postgresql://h/db?user=bob&password=***&sslmode=on"),
        ("postgresql://bob:${PW}@h/db", "postgresql://bob:${PW}@h/db"),
        ("postgresql://bob@h:5432/db", "postgresql://bob@h:5432/db"),
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("no URL: a@b", "no URL: a@b"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert masked(url) == shown
    assert masked(f"open '{url}', then go") == f"open '{shown}', then go"
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "written", [URL, f'"{URL}"', f"'{URL}'", '"postgresql://bob:s3cr3t\\x2dPa55@db.example/studies"']
)
def test_a_space_keeps_its_meaning_without_the_password(written: str, tmp_path: Path) -> None:
    text = SPACE.replace("search: {", f"search: {{storage: {written}, ").replace("trials:", "'trials':")
    (tmp_path / "space.yaml").write_text(text)
    space = load_space(tmp_path / "space.yaml")
    assert space.settings.storage == URL
    assert "Pa55" not in space.text
    (tmp_path / "again.yaml").write_text(space.text)
    again = load_space(tmp_path / "again.yaml")
    assert again.fingerprint() == space.fingerprint()
    assert again.settings.storage == "postgresql://bob:***@db.example/studies"


def test_a_comment_loses_its_password_beside_a_value_that_masking_would_change(tmp_path: Path) -> None:
    text = SPACE.replace("first:", f"# was {URL}\nfirst:").replace("name: mine", 'name: "http://a:b@c/d"')
    (tmp_path / "space.yaml").write_text(text)
    space = load_space(tmp_path / "space.yaml")
    assert SECRET not in space.text and "http://a:b@c/d" in space.text


def test_a_long_line_is_searched_for_passwords_in_seconds() -> None:
    started = time.process_time()
    for text in ("a" * 1_000_000, "a://b:" * 20_000):
        assert masked(text) == text
    assert time.process_time() - started < 20


def test_errors_and_logs_show_no_password(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    for option in (["--set", f"search.storage=[{URL}]"], ["--set", f"search.url={URL}"]):
        given = [
            "search",
            str(tmp_path / "space.yaml"),
            "--out",
            str(tmp_path / "s"),
            *option,
        ]
        ran = CliRunner().invoke(app, given)
        assert ran.exit_code == 2
        assert SECRET not in ran.output and "***" in ran.output
    with pytest.raises(SpaceError) as caught:
        open_storage(f"nosuch://bob:{SECRET}@h/db", tmp_path)
    assert "cannot be opened" in str(caught.value) and SECRET not in str(caught.value)
    record = logging.LogRecord("optuna", logging.WARNING, "", 0, "cannot reach %s", (URL,), None)
    from harness.cli.main import Masked

    assert SECRET not in Masked().format(record)
