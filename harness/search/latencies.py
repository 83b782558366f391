"""Latency of trials: measured once per structure, while nothing trains, relative to one reference file.

A machine's speed varies (clock rates, other users of the host). The reference is therefore timed in turn with the other
files. Each latency is multiplied by the recorded latency of the reference over its latency in this session, so
latencies of different sessions can be compared.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from harness.files.access import TABLE_BYTES, FileMistake
from harness.files.checksums import read_whole, write_checked_json
from harness.machine.host import environment
from harness.measure.lab import Lab
from harness.records import Measurement, TrialRecord, read_json, trial_folder, write_record
from harness.space.space import Space

log = logging.getLogger(__name__)
CACHE = "latency_cache.json"
Settings = tuple[str, int, int]  # runtime, batch size, threads


def _settings(record: TrialRecord) -> Settings:
    deploy = record.recipe["deploy"]
    return deploy["runtime"], deploy["batch_size"], deploy["threads"]


def _here(measured: Measurement) -> bool:
    """Whether it was measured on this machine with exact integers. In old records integers may have saturated."""
    here = environment()
    exact = "options" in measured.conditions or not here["session_options"]
    return measured.conditions.get("host") == here["host"] and exact


class Latencies:
    """Measures latencies in the lab and caches them by structure, runtime, batch size, threads, host and session
    options."""

    def __init__(self, lab: Lab, folder: Path, budget_s: float = 0.2):
        self._lab, self._folder, self._budget_s = lab, folder, budget_s
        self._cache: dict[str, Measurement] = {}
        self._reference: Path | None = None
        self._on_record: dict[Settings, float] = {}  # the reference's latency in ms
        self._lost = not self._read_cache(folder / CACHE)
        for conditions in (m.conditions for m in self._cache.values() if "reference_ms" in m.conditions and _here(m)):
            settings = (conditions["runtime"], conditions["batch_size"], conditions["threads"])
            self._on_record.setdefault(settings, conditions["reference_ms"])

    def _read_cache(self, path: Path) -> bool:
        try:
            self._cache = {k: Measurement.model_validate(v) for k, v in read_whole(path, limit=TABLE_BYTES).items()}
        except FileNotFoundError:
            return False
        except (OSError, ValueError, FileMistake) as error:
            log.warning("%s; it is rebuilt from the records", str(error).partition("\n")[0].rstrip("."))
            return False
        return True

    def recall(self, record: TrialRecord) -> None:
        """If the cache was lost, take the latency of ``record`` into it, so that equal structures keep equal
        latencies."""
        measured = record.measurements.get("latency_ms")
        if self._lost and measured is not None and _here(measured):
            self._cache.setdefault(self._key(record), measured)

    def mend(self) -> None:
        """Write a lost cache again, from what :meth:`recall` collected."""
        if self._lost:
            self._write()

    def _write(self) -> None:
        write_checked_json(self._folder / CACHE, {k: v.model_dump(mode="json") for k, v in self._cache.items()})

    def use_reference(self, record: TrialRecord, model: Path) -> None:
        """Set the reference file: ``model`` of ``record``, the widest fp32 student."""
        self._reference = model
        measured = record.measurements.get("latency_ms")
        if measured is not None and _here(measured):
            self._on_record[_settings(record)] = measured.median

    @property
    def has_reference(self) -> bool:
        return self._reference is not None

    def _key(self, record: TrialRecord) -> str:
        here = environment()
        options = (f"{name}={value}" for name, value in here["session_options"].items())
        return "|".join(str(v) for v in (record.structure, *_settings(record), here["host"], *options))

    def known(self, record: TrialRecord) -> TrialRecord | None:
        """The record with the latency of its structure; None if that is not in the cache."""
        latency = self._cache.get(self._key(record))
        if latency is None:
            return None
        load = Measurement(name="load_ms", unit="ms", values=[latency.conditions.get("load_ms", 0.0)])
        return record.with_measurements(latency, load)

    def measure(self, records: Sequence[TrialRecord], study: Path) -> None:
        """Time one file of each new structure among ``records``. The files are timed in turn."""
        groups: dict[Settings, dict[str, TrialRecord]] = {}
        for record in records:
            key = self._key(record)
            if key not in self._cache:
                groups.setdefault(_settings(record), {}).setdefault(key, record)
        for (runtime, batch, threads), records_by_key in groups.items():
            paths = [r.file(trial_folder(study, r.number)) for r in records_by_key.values()]
            reference = self._reference or paths[0]
            measured = self._lab.measure(paths, reference, runtime, batch, threads, self._budget_s, until_precise=True)
            for (key, record), value in zip(records_by_key.items(), measured, strict=True):
                latency = self._scaled(value, (runtime, batch, threads))
                conditions = {**latency.conditions, "measured_on_trial": record.number}
                self._cache[key] = latency.model_copy(update={"conditions": conditions})
        self._write()

    def _scaled(self, measured: Measurement, settings: Settings) -> Measurement:
        """``measured``, scaled to the reference's recorded latency; unscaled while there is no reference."""
        conditions = dict(measured.conditions)
        session_ms = conditions.pop("reference_ms")
        if self._reference is None:
            return measured.model_copy(update={"conditions": conditions})
        on_record_ms = self._on_record.setdefault(settings, session_ms)
        values = [value * on_record_ms / session_ms for value in measured.values]
        return measured.model_copy(
            update={"values": values, "conditions": {**conditions, "reference_ms": on_record_ms}}
        )

    def complete(self, record: TrialRecord, folder: Path) -> TrialRecord:
        """Write the record with its latency, which must be in the cache.

        Raises:
            KeyError: the latency is not in the cache.
        """
        full = self.known(record)
        if full is None:
            raise KeyError(record.structure)
        write_record(folder, full)
        return full

    def teacher(self, space: Space, folder: Path) -> None:
        """Measure the teacher's latency and add it to ``teacher.json``, unless the file already has it."""
        path = folder / "teacher.json"
        teacher = read_json(path)
        if "path" not in teacher or "latency_ms" in teacher:
            return
        deploy = space.fill(space.sample(lambda hole: hole.default)).deploy
        file = folder / teacher["path"]
        settings = (deploy.runtime, deploy.batch_size, deploy.threads)
        [latency] = self._lab.measure([file], self._reference or file, *settings, self._budget_s)
        latency = self._scaled(latency, settings)
        write_checked_json(
            path, {**teacher, "latency_ms": latency.median, "latency_interval_ms": list(latency.interval())}
        )
