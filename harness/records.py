"""The record of a trial: measurements with their raw values, in a durable file.

A record is written to a temporary name, flushed to the disk, and renamed; then the folder is flushed.
After a power cut there is either no record or a complete one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import re
import stat
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import SHOWN, cut
from harness.files.access import TABLE_BYTES, FileMistake, read_bytes, write_bytes_durably
from harness.files.checksums import read_whole, unsealed, write_checked_json
from harness.stats.direction import Direction
from harness.stats.intervals import median_interval

log = logging.getLogger(__name__)
DIRECTIONS: dict[str, Direction] = {
    "accuracy": "maximize",
    "size_bytes": "minimize",
    "latency_ms": "minimize",
    "load_ms": "minimize",
}
WIDEST_FP32, WIDEST_INT8, WIDTH_SWEEP = "widest-fp32", "widest-int8", "width-sweep"
BASELINES = (WIDEST_FP32, WIDEST_INT8, WIDTH_SWEEP)  # kinds of baseline
# Columns of a study's tables and keys of a recipe's promise. A task's metric must not have one of these names.
RESERVED = (
    *DIRECTIONS, "device_latency_ms", "n", "number", "status", "reason", "baseline", "structure", "duration_s", "model",
    "feasible", "front", "complete", "latency_low", "latency_high", "accuracy_n", "latency_interval_ms", "host",
    "study", "trial", "directions", "seed", "teacher", "options", "path",
)  # fmt: skip
_METRIC = re.compile(r"[A-Za-z_][\w@%+/-]*")
TOLD = "told.csv"  # when each trial was reported to Optuna, and after how many trained epochs
TOLD_COLUMNS = ("number", "elapsed_s", "epochs", "crc32")
UNTRAINED = "untrained.onnx"  # costs are measured on it before training; it is removed when the trial has a result
CONTINUES = "continues"  # diagnostic, job entry and Optuna attribute: number of the stopped trial that this one resumes


def trial_folder(study: Path, number: int) -> Path:
    """The folder of a trial in the study's folder ``study``."""
    return study / "trials" / f"{number:05d}"


def metric_name_mistake(name: Any) -> str:
    """The rule that ``name`` breaks as a name of a task's metric; empty if the name is allowed."""
    if name in RESERVED or str(name).startswith("test_"):
        return "is a reserved name"
    if not isinstance(name, str) or not _METRIC.fullmatch(name):
        return "must be a word of letters, digits and _ @ % + / -"
    return ""


_KINDS = {
    "int": "an integer", "float": "a number", "finite": "a finite number", "string": "a text", "bool": "true or false",
    "list": "a list", "dict": "a mapping", "model": "a mapping",
}  # fmt: skip
_RULES = {
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have at least {min_length} values",
    "literal_error": "must be one of {expected}",
    "string_pattern_mismatch": "must be a file's name",
}


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def mistake_in(error: ValidationError) -> str:
    """The first mistake of a file's content, in the words of :class:`harness.errors.SpaceError`: dotted name, rule,
    value."""
    first = error.errors()[0]
    kind, context = first["type"], first.get("ctx", {})
    if kind == "missing":
        rule = "is missing"
    elif kind == "extra_forbidden":
        rule = "unknown key"
    elif kind == "value_error":
        rule = str(context["error"])  # of our own validators
    else:
        template = _RULES.get(kind) or "must be " + _KINDS.get(kind.split("_")[0], "of another kind")
        rule = f"{template.format(**context)}, but got {cut(repr(first['input']), SHOWN)}"
    return ": ".join([*filter(None, [".".join(map(str, first["loc"]))]), rule])


class Measurement(_Data):
    """Raw values of one quantity. Statistics are computed from them, never stored.

    values      raw samples in ``unit`` (latency: one value per timed block)
    conditions  what the values depend on (runtime, threads, batch size, host fingerprint)
    """

    name: str
    unit: str
    values: list[float]
    conditions: dict[str, Any] = {}

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the median (:func:`harness.stats.intervals.median_interval`)."""
        return median_interval(self.values)


class Artifact(_Data):
    """An exported file: its name in the record's folder (``path``), format, checksum and size."""

    path: str = Field(pattern=r"^[^/\x00]+$")
    format: str
    sha256: str
    size_bytes: int


class TrialRecord(_Data):
    """All data of one trial.

    status       ``ok``: the worker measured everything; ``failed``: see ``reason``; ``stopped``: ended early, at a
                 rung or before training, because it could not reach the front
    params       the sampler's parameters (internal names), to rebuild the study's index
    structure    key of the graph that the runtime runs; files with equal keys have equal latency
    diagnostics  further numbers from the worker (share of clipped steps, parity, removed channels)
    waterfall    bytes after each step: fp32, pruned, quantized, file
    """

    number: int
    status: Literal["ok", "failed", "stopped"]
    reason: str = ""
    baseline: str = ""
    recipe: dict[str, Any]
    params: dict[str, Any] = {}
    seed: int = 0
    measurements: dict[str, Measurement] = {}
    artifact: Artifact | None = None
    structure: str = ""
    diagnostics: dict[str, Any] = {}
    waterfall: dict[str, int] = {}
    environment: dict[str, Any] = {}
    duration_s: float = Field(default=0.0, ge=0)

    def file(self, folder: Path) -> Path:
        """The exported file of a finished trial, in its ``folder``.

        Raises:
            ValueError: the record names none.
        """
        if self.artifact is None:
            raise ValueError(f"{folder}: the record names no file")
        return folder / self.artifact.path

    def value(self, name: str) -> float | None:
        """Median of the named measurement; None if it was not taken."""
        measurement = self.measurements.get(name)
        return None if measurement is None else measurement.median

    def with_measurements(self, *new: Measurement) -> TrialRecord:
        return self.model_copy(update={"measurements": {**self.measurements, **{m.name: m for m in new}}})


def write_json_durably(path: Path, data: Mapping[str, Any]) -> None:
    """Write ``data`` durably, without a checksum, for files that other programs read."""
    write_bytes_durably(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, root: Path | None = None) -> dict[str, Any]:
    """The object in a JSON file below ``root`` (default: its folder). Empty if there is no file; empty with a
    warning if the file cannot be read or is damaged."""
    try:
        return read_whole(path, root)
    except FileNotFoundError:
        return {}
    except FileMistake as error:
        log.warning("%s", error)
        return {}


def write_record(folder: Path, record: TrialRecord, root: Path | None = None) -> None:
    """Write ``folder/record.json`` (below ``root``). The files that it names must already be complete."""
    write_checked_json(folder / "record.json", record.model_dump(mode="json"), root)


def read_record(folder: Path, root: Path | None = None) -> TrialRecord | None:
    """The record in ``folder``; None if there is none, or if its file does not match it.

    Args:
        root: the study's folder (default: ``folder``); no link below it is followed.
    """
    try:
        record = parse_record(folder, root)
    except (OSError, ValueError, FileMistake):
        return None
    if record.artifact is not None and not matches(folder / record.artifact.path, record.artifact):
        return None
    return record


def parse_record(folder: Path, root: Path | None = None) -> TrialRecord:
    """The record in ``folder``. The file that it names is not checked.

    Raises:
        FileNotFoundError, FileMistake, ValueError: there is no readable record.
    """
    try:
        return TrialRecord.model_validate(read_whole(folder / "record.json", root or folder))
    except ValidationError as error:
        raise ValueError(f"{folder / 'record.json'}: {mistake_in(error)}") from None


def read_told(path: Path) -> tuple[list[tuple[int, str, str]], list[int]]:
    """The intact lines of ``told.csv`` as (trial number, seconds, epochs), and line numbers of damaged or incomplete
    ones. Epochs are empty in older studies."""
    if not path.exists():
        return [], []
    head, *lines = read_bytes(path, TABLE_BYTES, path.parent).decode(errors="replace").split("\n")
    checked = head != ",".join(TOLD_COLUMNS[:-1])
    intact: list[tuple[int, str, str]] = []
    damaged = [1] if checked and head != ",".join(TOLD_COLUMNS) else []
    for place, line in enumerate(lines[:-1], 2):
        try:
            cells = unsealed(line) if checked else line.split(",")
            number, elapsed, epochs = int(cells[0]), float(cells[1]), cells[2] and int(cells[2])
        except (ValueError, IndexError):
            damaged.append(place)
            continue
        intact.append((number, f"{elapsed:.3f}", str(epochs)))
    return intact, damaged + ([len(lines) + 1] if lines and lines[-1] else [])


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path, format: str) -> Artifact:
    """The :class:`Artifact` of an existing file; its size is that of ``stat``."""
    return Artifact(path=path.name, format=format, sha256=sha256_of(path), size_bytes=path.stat().st_size)


def matches(path: Path, artifact: Artifact) -> bool:
    """Whether ``path`` is the regular file that ``artifact`` describes."""
    try:
        return (
            stat.S_ISREG(path.lstat().st_mode)
            and path.stat().st_size == artifact.size_bytes
            and sha256_of(path) == artifact.sha256
        )
    except OSError:
        return False


def read_history(path: Path, root: Path | None = None) -> list[dict[str, float]]:
    """The rows of a trial's ``history.csv``, one an epoch: name -> value, which may be NaN.

    Empty if the file cannot be read.
    """
    try:
        text = read_bytes(path, TABLE_BYTES, root or path.parent).decode()
        rows = csv.DictReader(io.StringIO(text, newline=""))
        return [{name: float(value) for name, value in row.items()} for row in rows]
    except (OSError, FileMistake, csv.Error, TypeError, ValueError):
        return []
