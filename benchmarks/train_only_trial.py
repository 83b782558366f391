"""A trial module that trains and does nothing else: no file, no score, no audit, no record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.models.build import build_model
from harness.records import Artifact, Measurement, TrialRecord
from harness.train.fit import fit
from harness.train.lanes import Examples
from harness.train.teacher import quantities_of
from harness.trial.job import Answer, TrialJob
from harness.trial.proof import examine, prove
from harness.trial.run import fingerprint, prepare
from harness.trial.score import data_of, normalized_part

__all__ = ["examine", "fingerprint", "prepare", "prove", "score_test", "start"]


def start(jobs: Sequence[TrialJob], rungs: Any, logits: Mapping[str, np.ndarray], device: str = "cpu") -> Answer:
    return Answer([_trial(job, logits, device) for job in jobs])


def _trial(job: TrialJob, logits: Mapping[str, np.ndarray], device: str) -> TrialRecord:
    """Train only. The objectives are synthetic, since no file is exported that could be measured."""
    recipe = job.recipe
    data = data_of(recipe)
    module = build_model(recipe.student, data.input_shape, data.classes, recipe.seed)
    x, y = normalized_part(recipe, "train", device)
    fit(recipe, module.to(device), Examples(x, y, quantities_of(recipe, data, logits, device)))
    file = Artifact(path="none", format="none", sha256="", size_bytes=0)
    record = job.record().model_copy(update={"status": "ok", "artifact": file, "structure": "none"})
    made_up = {"accuracy": ("1", 0.5), "size_bytes": ("B", 1000.0 + job.number), "latency_ms": ("ms", 1.0)}
    return record.with_measurements(*(Measurement(name=k, unit=u, values=[v]) for k, (u, v) in made_up.items()))


def score_test(folder: str) -> dict[str, float]:
    return {"accuracy": 0.5, "n": 1.0}
