"""Trackers: where each trial of a search is logged besides its own folder, such as MLflow.

Input: a finished trial as a :class:`harness.trackers.tracker.TrackedTrial`. Output: what the tracker's package writes.
Nothing here may end or slow a search, and no file of the study is written. Other packages add trackers with an entry
point of the group ``harness.trackers``.
"""

from __future__ import annotations

TRACKERS = {
    "mlflow": "harness.trackers.mlflow:Mlflow",
    "tensorboard": "harness.trackers.tensorboard:Tensorboard",
    "wandb": "harness.trackers.wandb:Wandb",
}
