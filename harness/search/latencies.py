"""Latency of finished trials: once per structure, when nothing trains, beside one reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from harness.deploy.latency import Lab
from harness.deploy.machine import environment
from harness.records import Measurement, TrialRecord, write_json_durably, write_record
from harness.space import Space

CACHE = "latency_cache.json"


class Latencies:
    """Measures through the lab and remembers, by structure, runtime, batch, threads and host."""

    def __init__(self, lab: Lab, folder: Path, budget_s: float = 0.2):
        self._lab, self._folder, self._budget_s = lab, folder, budget_s
        self._cache: dict[str, Measurement] = {}
        self._reference: Path | None = None
        path = folder / CACHE
        if path.exists():
            found = json.loads(path.read_bytes())
            self._cache = {k: Measurement.model_validate(v) for k, v in found.items()}

    def use_reference(self, model: Path) -> None:
        """The file that is timed among all others: the widest fp32 student's."""
        self._reference = model

    def _key(self, record: TrialRecord) -> str:
        deploy = record.recipe["deploy"]
        return "|".join(
            str(v)
            for v in (
                record.structure,
                deploy["runtime"],
                deploy["batch_size"],
                deploy["threads"],
                environment()["host"],
            )
        )

    def known(self, record: TrialRecord) -> TrialRecord | None:
        """The record with the latency of its structure, where that was measured before."""
        found = self._cache.get(self._key(record))
        if found is None:
            return None
        load = Measurement(name="load_ms", unit="ms", values=[found.conditions.get("load_ms", 0.0)])
        return record.with_measurements(found, load)

    def measure(self, records: Sequence[TrialRecord], trial_folder: Path) -> None:
        """Time one file of each new structure among ``records``, all interleaved."""
        groups: dict[tuple[str, int, int], dict[str, TrialRecord]] = {}
        for record in records:
            deploy, key = record.recipe["deploy"], self._key(record)
            if key not in self._cache:
                settings = (deploy["runtime"], deploy["batch_size"], deploy["threads"])
                groups.setdefault(settings, {}).setdefault(key, record)
        for (runtime, batch, threads), new in groups.items():
            paths = [r.file(trial_folder / f"{r.number:05d}") for r in new.values()]
            measured = self._lab.measure(
                paths, self._reference, runtime, batch, threads, self._budget_s, until_precise=True
            )
            for (key, record), value in zip(new.items(), measured, strict=True):
                conditions = {**value.conditions, "measured_on_trial": record.number}
                self._cache[key] = value.model_copy(update={"conditions": conditions})
        write_json_durably(self._folder / CACHE, {k: v.model_dump(mode="json") for k, v in self._cache.items()})

    def complete(self, record: TrialRecord, folder: Path) -> TrialRecord:
        """Write the record again with its latency, which must be known by now."""
        full = self.known(record)
        if full is None:
            raise KeyError(record.structure)
        write_record(folder, full)
        return full

    def teacher(self, space: Space, folder: Path) -> None:
        """Add the teacher's latency to ``teacher.json``."""
        path = folder / "teacher.json"
        if not path.exists():
            return
        teacher = json.loads(path.read_bytes())
        if "latency_ms" in teacher:
            return
        deploy = space.fill(space.sample(lambda hole: hole.default)).deploy
        [found] = self._lab.measure(
            [folder / teacher["path"]], None, deploy.runtime, deploy.batch_size, deploy.threads, self._budget_s
        )
        write_json_durably(path, {**teacher, "latency_ms": found.median, "latency_interval_ms": list(found.interval())})
