"""Bundles: files to time on a device that cannot run harness, and reading its results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from harness.errors import SpaceError
from harness.export import packed
from harness.files.access import TABLE_BYTES, read_object, write_bytes_durably
from harness.machine import host
from harness.measure.bench import Bench, timings_of
from harness.measure.device_bench import PROBE
from harness.measure.lab import Job, Session
from harness.records import Measurement, mistake_in, read_record, write_json_durably, write_record
from harness.runtimes.base import refuse_external_data

HARNESS = Path(__file__).resolve().parents[1]
SCRIPTS = ("measure/device_bench.py", "measure/timing.py", "machine/onnx_session.py")  # copied into every bundle
QUANTITY = "device_latency_ms"


def write_bundle(files: Sequence[Path], folder: Path) -> Path:
    """Copy ``files`` (unpacking packed ones) and the script that times them into a new ``folder``.

    Returns:
        Path of the script to run on the device.
    Raises:
        SpaceError: the folder exists, or a file cannot be read.
    """
    if folder.exists():
        raise SpaceError("--bundle", "must be a new folder", str(folder), "It exists already.")
    models = [packed.read(path) for path in files]
    for path in files:
        refuse_external_data(path, packed.load(path))
    names: dict[str, Any] = {}
    for i, (path, model) in enumerate(zip(files, models, strict=True)):
        write_bytes_durably(folder / f"{i:03d}.onnx", model)
        names[f"{i:03d}.onnx"] = {
            "path": str(path),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "model_sha256": hashlib.sha256(model).hexdigest(),
        }
    write_json_durably(folder / "files.json", names)
    write_bytes_durably(folder / PROBE, host.probe())
    for script in (HARNESS / name for name in SCRIPTS):
        write_bytes_durably(folder / script.name, script.read_bytes())
    return folder / Path(SCRIPTS[0]).name


class _File(BaseModel):
    path: str
    sha256: str
    model_sha256: str
    measured_sha256: str


class _Results(BaseModel):
    """The schema of ``results.json``: every session has, for every file, blocks of positive times in ms."""

    sessions: list[Session] = Field(min_length=1)
    files: list[_File] = Field(min_length=1)
    runtime: str
    batch_size: int = Field(ge=1, le=2**31)
    threads: int = Field(ge=1, le=2**31)

    @model_validator(mode="after")
    def fit(self) -> _Results:
        for session in self.sessions:
            counts = {len(session.blocks), len(session.load_ms), len(session.options) or len(self.files)}
            if counts != {len(self.files)}:
                raise ValueError("every session must hold a result of every file")
            blocks = [block for job in session.blocks for block in job]
            if len({len(job) for job in session.blocks}) > 1 or not blocks or not all(blocks):
                raise ValueError("the files must be timed in equally many blocks")
            if not all(t > 0 for times in (*blocks, session.load_ms) for t in times):
                raise ValueError("times must be above 0")
        return self


def read_results(path: Path) -> tuple[Bench, list[str]]:
    """The timings measured on a device, and the SHA-256 of the bundled files.

    Raises:
        SpaceError: ``path`` is no results.json of a bundle, or the device timed other files.
    """
    try:
        results = _Results.model_validate(read_object(path, limit=TABLE_BYTES))
    except FileNotFoundError:
        raise SpaceError(str(path), "no such file", remedy="Copy it back from the device.") from None
    except ValidationError as error:
        raise SpaceError(str(path), f"must be the results.json of a bundle ({mistake_in(error)})") from None
    other = [f.path for f in results.files if f.model_sha256 != f.measured_sha256]
    if other:
        raise SpaceError(str(path), f"the device timed other files than were bundled: {other}")
    jobs = [Job(Path(f.path), f"{results.runtime} on {results.sessions[0].host}") for f in results.files]
    timings = timings_of(jobs, results.sessions, 0, [])
    return Bench(timings, results.sessions, results.batch_size, results.threads), [f.sha256 for f in results.files]


def into_study(benchmark: Bench, digests: Sequence[str], study: Path) -> list[int]:
    """Add ``device_latency_ms`` to the records of the study's trials whose files were timed.

    Returns:
        The numbers of these trials.
    Raises:
        SpaceError: the study holds none of the files.
    """
    by_digest = dict(zip(digests, benchmark.measurements(), strict=True))
    changed = []
    for folder in sorted((study / "trials").glob("[0-9]*")):
        record = read_record(folder, study)
        if record is None or record.artifact is None or record.artifact.sha256 not in by_digest:
            continue
        measurement = by_digest[record.artifact.sha256]
        named = Measurement(name=QUANTITY, unit="ms", values=measurement.values, conditions=measurement.conditions)
        write_record(folder, record.with_measurements(named), study)
        changed.append(record.number)
    if not changed:
        raise SpaceError("--into", "the study holds none of the files that were timed", str(study))
    return changed
