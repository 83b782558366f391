"""TensorBoard: event files in the study's folder, ``tensorboard/00042`` for trial 42 (``tensorboard --logdir``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.trackers.tracker import TrackedTrial


class Tensorboard:
    """See :class:`harness.trackers.tracker.Tracker`."""

    def __init__(self, study: str, folder: Path) -> None:
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        self._writer: Any = SummaryWriter
        self._hparams: Any = hparams
        self._folder = folder / "tensorboard"

    def trial(self, trial: TrackedTrial) -> None:
        with self._writer(str(self._folder / f"{trial.number:05d}")) as writer:
            for row in trial.curve:
                for name, value in row.items():
                    if name != "epoch":
                        writer.add_scalar(f"epoch/{name}", value, int(row["epoch"]))
            params = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in trial.params.items()}
            for summary in self._hparams(params, dict(trial.metrics)):
                # not add_hparams, which opens a second file; of the same name if that is within the same second
                writer.file_writer.add_summary(summary)
            for name, value in trial.metrics.items():
                writer.add_scalar(name, value, 0)
            ended = f"{trial.status} {trial.reason}".strip()
            writer.add_text("trial", f"{ended}; {trial.baseline or 'searched'}; {trial.file or 'no file'}")

    def close(self, status: str) -> None:
        pass
