"""Every single bit of a file with a checksum: a flip is noticed, also where the checksum itself stands."""

import contextlib
import json

import pytest

from harness.files.access import FileMistake
from harness.files.checksums import read_whole, sealed_entry, unsealed_entry, write_checked_json

DATA = {"status": "complete", "finished": 14, "front": [1, 2], "wall_s": 12.3}


def flips(data: bytes):
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(changed)


def test_no_flipped_bit_of_a_json_file_is_read_as_something_else(tmp_path):
    path = tmp_path / "study.json"
    write_checked_json(path, DATA)
    assert read_whole(path) == DATA
    for bit, changed in flips(path.read_bytes()):
        path.write_bytes(changed)
        with contextlib.suppress(FileMistake):
            assert read_whole(path) == DATA, f"bit {bit}: {changed[-40:]!r}"


def test_no_flipped_bit_of_a_line_is_read_as_something_else():
    line = sealed_entry(DATA).encode()
    assert unsealed_entry(line) == DATA
    for bit, changed in flips(line):
        with contextlib.suppress(ValueError):  # not JSON, not UTF-8, or not its checksum
            assert unsealed_entry(changed) == DATA, f"bit {bit}: {changed[-40:]!r}"


@pytest.mark.parametrize("last", [{"wall_s": 12.3}, {"command": "harness search"}, {"crc": "0123abcd"}, {}])
def test_files_of_older_versions_have_no_checksum(tmp_path, last):
    path = tmp_path / "study.json"
    path.write_text(json.dumps({**DATA, **last}, indent=1) + "\n")
    assert read_whole(path) == {**DATA, **last}
    assert unsealed_entry(json.dumps({**DATA, **last}).encode() + b"\n") == {**DATA, **last}
