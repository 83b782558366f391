"""Consent to code that a study names: it is shown before it runs, and runs only if the user has agreed.

A recipe may name the user's own task, network or runtime as ``package.module:function``. In a study from somebody else
this can be anything that this machine can import (``os:system``). Searching a space, or training a recipe outside a
study, counts as consent, because the user named the file. A search therefore stores which code its folder may name, in
the user's cache and not in the study. Every other verb asks before it runs code of a study.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import SpaceError
from harness.files.access import FileMistake, Plain, check_way, read_object, write_bytes_durably
from harness.files.checksums import read_whole
from harness.files.folders import cache_folder
from harness.methods import is_mapping
from harness.space.source import read_source

_NAMES = ("name", "model", "runtime")  # keys of a recipe's sections whose value may name code
_SECTIONS = ("task", "student", "teacher", "deploy")


def named_code(tree: Any) -> set[str]:
    """All ``package.module:function`` that a recipe or space names, in any branch of a choice."""
    waiting: list[tuple[str, Plain]] = [("", tree.get(section)) for section in _SECTIONS] if is_mapping(tree) else []
    names = set[str]()
    while waiting:
        key, node = waiting.pop()
        if isinstance(node, Mapping):
            waiting += [(key if k == "choice" else str(k), inner) for k, inner in node.items()]
        elif isinstance(node, list):
            waiting += [(key, inner) for inner in node]
        elif isinstance(node, str) and key in _NAMES and ":" in node:
            names.add(node)
    return names


def study_code(folder: Path) -> set[str]:
    """The code that the space and the trials' records of a study name. Records that no verb would read are ignored.

    Raises:
        FileMistake: ``trials/`` or ``space.yaml`` is a link or something else that is not regular.
    """
    names = set[str]()
    if (folder / "space.yaml").exists():
        if (folder / "space.yaml").is_symlink():
            raise FileMistake(folder / "space.yaml", "must be a regular file, but is a symbolic link")
        names |= named_code(read_source(folder / "space.yaml").tree)
    check_way(folder / "trials" / "0", folder)
    for path in folder.glob("trials/*/record.json"):
        with contextlib.suppress(FileMistake, FileNotFoundError):
            names |= named_code(read_whole(path, folder).get("recipe"))
    return names


def study_of(file: Path) -> Path | None:
    """The folder of the study that contains ``file`` or the target of its link; None if there is none. Any folder that
    contains ``trials/`` counts as a study."""
    places = [*file.absolute().parents, *file.resolve().parents]
    return next((at for at in places if (at / "trials").is_dir()), None)


def remember(folder: Path, code: set[str]) -> None:
    """Store that the study in ``folder`` may name ``code`` on this machine."""
    if code:
        with contextlib.suppress(OSError, SpaceError):  # without a cache the next verb asks
            write_bytes_durably(_note(folder), json.dumps({"code": sorted(code | _remembered(folder))}).encode())


def require(verb: str, folder: Path, code: set[str], agreed: bool, ask: Callable[[str], bool] | None = None) -> None:
    """Require the user's consent that ``verb`` runs ``code``, which the study in ``folder`` names.

    Args:
        agreed: the user gave ``--trust``.
        ask: asks the user a question; None if nobody can answer.
    Raises:
        SpaceError: the user has not agreed; the message names the code.
    """
    unagreed = sorted(code - _remembered(folder))
    if not unagreed or agreed:
        return
    more = f" and {len(unagreed) - 10} more" if len(unagreed) > 10 else ""
    names = ", ".join(repr(name[:100]) for name in unagreed[:10]) + more
    statement = f"{verb} would import and run code that this study names: {names}"
    if ask is not None and ask(f"{folder}: {statement}. Run it?"):
        return
    remedy = "Nothing was run. If you trust the study, and the code of these names on this machine, give --trust."
    raise SpaceError("", statement, remedy=remedy, file=str(folder))


def _remembered(folder: Path) -> set[str]:
    try:
        return {str(name) for name in read_object(_note(folder)).get("code", [])}
    except (OSError, SpaceError, TypeError):
        return set()


def _note(folder: Path) -> Path:
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()
    return cache_folder() / "trusted" / f"{place}.json"
