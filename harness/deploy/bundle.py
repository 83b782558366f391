"""Files to time on a device that cannot run harness, and the results that come back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.deploy import machine, packed
from harness.deploy.bench import Bench, timings_of
from harness.deploy.device_bench import PROBE
from harness.deploy.latency import Job, Session
from harness.errors import SpaceError
from harness.records import Measurement, read_record, write_bytes_durably, write_json_durably, write_record

SCRIPTS = ("device_bench.py", "timing.py", "onnx_session.py")
QUANTITY = "device_latency_ms"


def write_bundle(files: Sequence[Path], folder: Path) -> Path:
    """Copy ``files`` (packed ones unpacked) and the script that times them into a new ``folder``.

    Returns:
        the script to run on the device.
    Raises:
        SpaceError: the folder exists, or a file cannot be read.
    """
    if folder.exists():
        raise SpaceError("--bundle", "must be a new folder", str(folder), "It exists already.")
    models = [packed.read(path) for path in files]
    names: dict[str, Any] = {}
    for i, (path, model) in enumerate(zip(files, models, strict=True)):
        write_bytes_durably(folder / f"{i:03d}.onnx", model)
        names[f"{i:03d}.onnx"] = {
            "path": str(path),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "model_sha256": hashlib.sha256(model).hexdigest(),
        }
    write_json_durably(folder / "files.json", names)
    write_bytes_durably(folder / PROBE, machine.probe())
    for script in SCRIPTS:
        write_bytes_durably(folder / script, (Path(__file__).parent / script).read_bytes())
    return folder / SCRIPTS[0]


def read_results(path: Path) -> tuple[Bench, list[str]]:
    """What a device measured, and the SHA-256 of the files that were bundled.

    Raises:
        SpaceError: it is no results.json of a bundle, or the device timed other files.
    """
    try:
        found = json.loads(path.read_bytes())
        sessions = [Session(**s) for s in found["sessions"]]
        files = found["files"]
        jobs = [Job(Path(f["path"]), f"{found['runtime']} on {sessions[0].host}") for f in files]
        other = [f["path"] for f in files if f["model_sha256"] != f["measured_sha256"]]
        made = Bench(timings_of(jobs, sessions, 0, []), sessions, int(found["batch_size"]), int(found["threads"]))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise SpaceError(str(path), f"must be the results.json of a bundle ({type(error).__name__}: {error})") from None
    if other:
        raise SpaceError(str(path), f"the device timed other files than were bundled: {other}")
    return made, [f["sha256"] for f in files]


def into_study(made: Bench, digests: Sequence[str], study: Path) -> list[int]:
    """Add ``device_latency_ms`` to the records of the study's trials whose files were timed.

    Returns:
        the numbers of those trials.
    """
    by_digest = dict(zip(digests, made.measurements(), strict=True))
    changed = []
    for folder in sorted((study / "trials").glob("[0-9]*")):
        record = read_record(folder)
        if record is None or record.artifact is None or record.artifact.sha256 not in by_digest:
            continue
        found = by_digest[record.artifact.sha256]
        named = Measurement(name=QUANTITY, unit="ms", values=found.values, conditions=found.conditions)
        write_record(folder, record.with_measurements(named))
        changed.append(record.number)
    if not changed:
        raise SpaceError("--into", "the study holds none of the files that were timed", str(study))
    return changed
