"""One reader and one writer: regular files of a bounded size, inside one folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from harness.files.access import FileMistake, check_tree, read_bytes, read_object, write_bytes_durably


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a file and a folder in it, beside a victim's file."""
    (tmp_path / "victim").write_text("{}")
    made = tmp_path / "study"
    (made / "trials").mkdir(parents=True)
    (made / "trials" / "a.json").write_text('{"x": 1}')
    return made


def test_a_regular_file_is_read_whole(root: Path) -> None:
    assert read_bytes(root / "trials" / "a.json", 8, root) == b'{"x": 1}'
    assert read_object(root / "trials" / "a.json", root) == {"x": 1}


def test_a_file_that_is_not_there_is_no_mistake(root: Path) -> None:
    for name in ("b.json", "no/such/b.json"):
        with pytest.raises(FileNotFoundError):
            read_bytes(root / name, 8, root)


def test_a_byte_more_than_the_limit_is_refused_without_reading_it(root: Path) -> None:
    with pytest.raises(FileMistake, match="must be at most 7 bytes"):
        read_bytes(root / "trials" / "a.json", 7, root)
    with open(root / "huge", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FileMistake, match="must be at most 1,000 bytes"):
        read_bytes(root / "huge", 1000, root)


def test_what_is_no_regular_file_is_named(root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "folder").mkdir()
    (root / "link").symlink_to(root / "trials" / "a.json")
    (root / "loop").symlink_to("loop")
    (root / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
    for name, kind in {
        "fifo": "a FIFO", "folder": "a folder", "link": "a symbolic link", "loop": "a symbolic link",
        "device": "a symbolic link", "socket": "a socket",
    }.items():  # fmt: skip
        with pytest.raises(FileMistake, match=f"{name}: must be a regular file, but is {kind}"):
            read_bytes(root / name, 100, root)
    with pytest.raises(FileMistake, match="must be a regular file, but is a device"):
        read_bytes(Path("/dev/zero"), 100)
    with pytest.raises(FileMistake, match="cannot be read"):
        read_bytes(root / "x\0y", 100)


def test_a_link_that_the_user_names_is_followed_and_one_inside_a_study_is_not(root: Path, tmp_path: Path) -> None:
    (root / "out").symlink_to(tmp_path)
    assert read_bytes(root / "out" / "victim", 100) == b"{}"
    with pytest.raises(FileMistake, match="out: must be a folder, but is a symbolic link"):
        read_bytes(root / "out" / "victim", 100, root)
    with pytest.raises(FileMistake, match="must lie in"):
        read_bytes(root / ".." / "victim", 100, root)
    with pytest.raises(FileMistake, match=r"a\.json: must be a folder, but is a file"):
        read_bytes(root / "trials" / "a.json" / "b", 100, root)
    (tmp_path / "named").symlink_to(root)
    assert read_object(tmp_path / "named" / "trials" / "a.json", tmp_path / "named") == {"x": 1}


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff\xfe{\x00}\x00x", "is not valid JSON"),
        (b'{"x": NaN}', "NaN is not a number"),
        (b'{"x": -Infinity}', "-Infinity is not a number"),
        (b"[]", "must hold a JSON object, but holds a list"),
        (b"7", "must hold a JSON object, but holds a int"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"x": ' + b"[" * 200 + b"]" * 200 + b"}", "nested more than 100 deep"),
        (b'{"x": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b'{"x": "\\uD800"}', "is not valid JSON"),
        (b'{"x": 1e999}', "is not valid JSON"),
        (b'{"x": -' + b"9" * 400 + b".5}", "is not valid JSON"),
    ],
)
def test_what_is_no_json_object_is_one_message(root: Path, content: bytes, rule: str) -> None:
    (root / "x.json").write_bytes(content)
    with pytest.raises(FileMistake) as caught:
        read_object(root / "x.json", root)
    assert rule in str(caught.value)
    assert len(str(caught.value)) < 500


def test_writing_replaces_a_link_and_leaves_what_it_points_to(root: Path, tmp_path: Path) -> None:
    (root / "page").symlink_to(tmp_path / "victim")
    os.link(tmp_path / "victim", root / "hard")
    (root / f".page.{os.getpid()}.tmp").symlink_to(tmp_path / "victim")
    for name in ("page", "hard"):
        write_bytes_durably(root / name, b"new", root)
        assert (root / name).read_bytes() == b"new"
        assert not (root / name).is_symlink()
    assert (tmp_path / "victim").read_text() == "{}"
    assert not list(root.glob(".*"))


def test_writing_through_a_folder_that_is_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root / "report").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileMistake, match="report: must be a folder, but is a symbolic link"):
        write_bytes_durably(root / "report" / "index.html", b"new", root)
    (root / "taken").mkdir()
    with pytest.raises(FileMistake, match="must be a file, but is a folder"):
        write_bytes_durably(root / "taken", b"new", root)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_tree_of_plain_files_is_let_through_and_any_other_is_not(root: Path, tmp_path: Path) -> None:
    check_tree(root)
    check_tree(root / "not there yet")
    for make, rule in (
        (lambda path: path.symlink_to(tmp_path), "is a symbolic link"),
        (lambda path: os.mkfifo(path), "is a FIFO"),
        (lambda path: os.link(tmp_path / "victim", path), "is a hard link"),
    ):
        make(root / "trials" / "odd")
        with pytest.raises(FileMistake, match=rule):
            check_tree(root)
        (root / "trials" / "odd").unlink()
