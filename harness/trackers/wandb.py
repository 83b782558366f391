"""Weights & Biases: a project per study, a run per trial (``WANDB_MODE=offline`` writes into the study's folder)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.trackers.tracker import TrackedTrial


class Wandb:
    """See :class:`harness.trackers.tracker.Tracker`."""

    def __init__(self, study: str, folder: Path) -> None:
        import wandb  # pyright: ignore

        self._wandb: Any = wandb
        self._study, self._folder = study, folder

    def trial(self, trial: TrackedTrial) -> None:
        run = self._wandb.init(
            project=self._study,
            group=self._folder.name,
            name=f"trial {trial.number}",
            config={**trial.recipe, "searched": list(trial.params)},
            tags=[tag for tag in (trial.status, trial.baseline, "front" if trial.on_front else "") if tag],
            dir=str(self._folder),
            reinit="finish_previous",
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        for row in trial.curve:
            run.log({f"epoch/{name}": value for name, value in row.items() if name != "epoch"}, step=int(row["epoch"]))
        run.summary.update({**trial.metrics, "reason": trial.reason})
        if trial.file is not None:
            model = self._wandb.Artifact(f"{self._study}-{trial.number}", type="model")
            model.add_file(str(trial.file))
            run.log_artifact(model)
        run.finish(exit_code=1 if trial.status == "failed" else 0)

    def close(self, status: str) -> None:
        pass
