"""MLflow: an experiment per study; a run per search, with a nested run per trial.

``MLFLOW_TRACKING_URI`` says where; without it, MLflow's default.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from harness.trackers.tracker import TrackedTrial

_STATUS = {"ok": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
_PARENT = "mlflow.parentRunId"
_BATCH = 900  # metrics in a call; MLflow takes at most 1,000


class Mlflow:
    """See :class:`harness.trackers.tracker.Tracker`."""

    def __init__(self, study: str, folder: Path) -> None:
        from mlflow import MlflowClient  # pyright: ignore

        self._client: Any = MlflowClient()
        known = self._client.get_experiment_by_name(study)
        self._experiment = known.experiment_id if known else self._client.create_experiment(study)
        tags = {"harness.folder": str(folder)}
        self._search = self._client.create_run(self._experiment, run_name=folder.name, tags=tags).info.run_id

    def trial(self, trial: TrackedTrial) -> None:
        from mlflow.entities import Metric, Param, RunTag  # pyright: ignore

        name = f"trial {trial.number}"
        run = self._client.create_run(self._experiment, run_name=name, tags={_PARENT: self._search}).info.run_id
        now = int(1000 * time.time())
        metrics = [Metric(key, value, now, 0) for key, value in trial.metrics.items()]
        for row in trial.curve:
            step = int(row["epoch"])
            metrics += [Metric(f"epoch/{key}", value, now, step) for key, value in row.items() if key != "epoch"]
        tags = {"status": trial.status, "reason": trial.reason[:500], "baseline": trial.baseline}
        tags |= {"front": str(trial.on_front)}
        params = [Param(key, str(value)) for key, value in trial.params.items()]
        self._client.log_batch(run, metrics[:_BATCH], params, [RunTag(key, value) for key, value in tags.items()])
        for start in range(_BATCH, len(metrics), _BATCH):
            self._client.log_batch(run, metrics[start : start + _BATCH])
        if trial.file is not None:
            self._client.log_artifact(run, str(trial.file))
        self._client.set_terminated(run, _STATUS[trial.status])

    def close(self, status: str) -> None:
        self._client.set_tag(self._search, "status", status)
        self._client.set_terminated(self._search)
