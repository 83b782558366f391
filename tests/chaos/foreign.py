"""A study's folder from somebody else: every file of it replaced by every odd thing, for every verb that reads.

Each verb must end with its table or one message: no traceback, nothing that hangs, nothing written or
changed outside the study.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.space.space import load_space
from tests.chaos import Case
from tests.oracle import SPACE
from tests.searching import search_here

SECONDS = 60  # of wall time for one verb, on a busy machine
VICTIM = b'{"kept": true}'
FILES = (
    "study.json", "test.json", "environment.json", "importances.json", "teacher.json", "confirm.json", "told.csv",
    "space.yaml", "run.lock", "trials/00000/record.json", "trials/00001/history.csv", "trials/00002/model.onnx",
    "report/index.html", "report/trials.csv", "best/knee.yaml",
)  # fmt: skip
FOLDERS = ("trials", "trials/00003", "report", "best")
VERBS: dict[str, tuple[str, ...]] = {
    "report": ("report", "STUDY"),
    "status": ("status", "STUDY"),
    "pick": ("pick", "STUDY", "--min-accuracy", "0.1"),
    "compare": ("compare", "STUDY", "--out", "PAGE"),
    "check": ("check", "STUDY"),
    "confirm": ("confirm", "STUDY"),
    "train": ("train", "STUDY/best/knee.yaml"),
    "audit": ("audit", "STUDY/trials/00002/model.onnx"),
    "bench": ("bench", "--import", "STUDY/study.json", "--into", "STUDY"),
}


ONLY = {"check": "study.json", "confirm": "space.yaml", "train": "best/knee.yaml"}  # else they would begin to work


def _hard_link(path: Path, victim: Path) -> None:
    os.link(victim, path)


def _socket(path: Path, victim: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(path.parent):  # a name has at most 108 bytes
        listening.bind(path.name)


def _huge(path: Path, victim: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 42)


def _unreadable(path: Path, victim: Path) -> None:
    path.write_bytes(VICTIM)
    path.chmod(0)


def _holding(data: bytes) -> Callable[[Path, Path], Any]:
    return lambda path, victim: path.write_bytes(data)


ODD: dict[str, Callable[[Path, Path], Any]] = {
    "missing": lambda path, victim: None,
    "link": lambda path, victim: path.symlink_to(victim),
    "link to a folder": lambda path, victim: path.symlink_to(victim.parent),
    "link to nothing": lambda path, victim: path.symlink_to(victim.parent / "new"),
    "link to itself": lambda path, victim: path.symlink_to(path.name),
    "device": lambda path, victim: path.symlink_to("/dev/zero"),
    "terminal": lambda path, victim: path.symlink_to("/dev/stdin"),
    "FIFO": lambda path, victim: os.mkfifo(path),
    "socket": _socket,
    "hard link": _hard_link,
    "folder": lambda path, victim: path.mkdir(),
    "huge": _huge,
    "unreadable": _unreadable,
    "empty": _holding(b""),
    "binary": _holding(bytes(range(256)) * 20),
    "zeros": _holding(bytes(5000)),
    "text": _holding("Grüße\n".encode("latin-1") * 20),
    "UTF-16": _holding('{"front": [0]}'.encode("utf-16")),
    "deep": _holding(b"[" * 200_000),
    "deep object": _holding(b'{"front":' * 500 + b"0" + b"}" * 500),
    "list": _holding(b"[1, 2, 3]"),
    "NaN": _holding(b'{"front": [NaN], "wall_s": NaN}'),
    "beyond floats": _holding(b'{"front": [0], "wall_s": 1e999, "reference": {"accuracy": 1e400}}'),
    "large number": _holding(b'{"front": [' + b"9" * 4000 + b'], "number": ' + b"9" * 4000 + b"}"),
    "surrogate": _holding(b'{"name": "\\ud800", "status": "\\udfff", "front": [0]}'),
    "escape": _holding(b'{"name": "\\u001b]0;x\\u0007", "status": "\\u001b[2J", "front": [0]}'),
    "wrong types": _holding(
        b'{"front": "x", "objectives": 7, "directions": 3, "constraints": {"accuracy": {"min": "a"}}, "wall_s": [], '
        b'"reference": {"accuracy": "b"}, "points": 3, "isa": 5, "0": {"accuracy": []}, "accuracy": {"x": "y"}}'
    ),
    "nulls": _holding(b'{"front": null, "objectives": [null], "chance": null, "isa": null, "points": [null]}'),
}  # fmt: skip


def make_study(box: Path) -> Path:
    """A finished study with a fake trial, and its report."""
    (box / "space.yaml").write_text(SPACE)
    space = load_space(box / "space.yaml", overrides=["search.trials=12"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_FAKE", str(box))
        search_here(space, box / "study")
    assert CliRunner().invoke(app, ["report", str(box / "study")]).exit_code == 0
    return box / "study"


def all_cases() -> list[tuple[str, str, str]]:
    """(verb, place, odd thing); a folder is only replaced by what is no text."""
    textless = [name for name in ODD if name not in ("missing", "folder", "hard link")][:9]
    cases = [(v, f, odd) for v in VERBS for f in FILES for odd in ODD]
    cases += [(v, f, odd) for v in VERBS for f in FOLDERS for odd in textless]
    return [case for case in cases if case[1] == ONLY.get(case[0], case[1])]


def strike(study: Path, verb: str, place: str, odd: str) -> list[str]:
    """What did not hold when ``verb`` met a copy of ``study`` whose ``place`` is an ``odd`` thing."""
    with tempfile.TemporaryDirectory() as folder:
        outside, copy = Path(folder, "outside"), Path(folder, "study")
        outside.mkdir()
        (outside / "victim").write_bytes(VICTIM)
        shutil.copytree(study, copy)
        path = copy / place
        path.parent.mkdir(exist_ok=True)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        ODD[odd](path, outside / "victim")
        given = [part.replace("STUDY", str(copy)).replace("PAGE", f"{folder}/page.html") for part in VERBS[verb]]
        broken = _run(given)
        if (outside / "victim").read_bytes() != VICTIM or [p.name for p in outside.iterdir()] != ["victim"]:
            broken.append("it changed what lies outside the study")
        return broken


def _run(given: list[str]) -> list[str]:
    def late(*_: Any) -> None:
        raise TimeoutError("it hung")

    before, started = signal.signal(signal.SIGALRM, late), time.monotonic()
    signal.alarm(SECONDS)
    try:
        ran = CliRunner().invoke(app, given)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    broken = [f"{given[0]} hung"] if time.monotonic() - started > SECONDS else []
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        broken.append(f"a traceback: {type(ran.exception).__name__}: {str(ran.exception)[:200]}")
    if ran.exit_code and len(ran.output) > 5000:
        broken.append(f"{len(ran.output)} characters of output")
    if ran.exit_code == 2 and "harness:" not in ran.output and not broken:
        broken.append("no message")
    return broken + (["a terminal's escape in the output"] if "\x1b" in ran.output else [])


def folders() -> Iterator[Case]:
    """Every odd thing at every place, for every verb."""
    with tempfile.TemporaryDirectory() as box:
        yield from _cases(make_study(Path(box)), all_cases())


def _cases(study: Path, cases: list[tuple[str, str, str]]) -> Iterator[Case]:
    for verb, place, odd in cases:
        yield f"{verb}: {place} is {odd}", strike(study, verb, place, odd)
