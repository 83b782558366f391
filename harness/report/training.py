"""Warnings from training: a weak teacher, a training loss that was still falling at the end."""

from __future__ import annotations

import math
from pathlib import Path

from harness.records import read_history, trial_folder
from harness.report import units
from harness.report.fronts import at_chance
from harness.report.study_data import StudyData

LATE = 0.25  # the last quarter of the epochs counts as the end of training
FALLING = 0.1  # a warning appears if more than this share of the loss's fall came in that quarter: it is 0 for a
# loss that has converged, 0.25 for one that falls linearly


def weak_teacher(data: StudyData) -> list[str]:
    """Sentences if the teacher is worse than the best student, or not significantly above chance."""
    quality = data.quality
    teacher_score = data.teacher.get(quality.name)
    if not isinstance(teacher_score, int | float) or data.finished.empty:
        return []
    sentences, accuracy = [], data.teacher.get("accuracy")
    n = next((r.measurements["accuracy"].conditions.get("n") for r in data.records.values() if r.status == "ok"), None)
    if isinstance(accuracy, int | float) and at_chance(accuracy, data.chance.get("accuracy"), n):
        sentences.append(f"the teacher's accuracy ({units.share(accuracy)}) is at the level of the most frequent class")
    best = data.best_first(data.finished).iloc[0]
    if (best[quality.name] - teacher_score) * (1 if quality.direction == "maximize" else -1) > 0:
        sentences.append(
            f"the teacher is weaker than the best student: {quality.name} "
            f"{units.quantity(quality.name, teacher_score)}, "
            f"trial {best['number']} has {units.quantity(quality.name, best[quality.name])}"
        )
    return sentences


def still_falling(data: StudyData) -> list[str]:
    """A sentence that names the front's trials whose training loss was still falling at the end."""
    shares = {
        n: late_fall(trial_folder(data.folder, n) / "history.csv", data.folder) for n in data.front["number"].tolist()
    }
    falling = {n: share for n, share in shares.items() if share > FALLING}
    if not falling:
        return []
    most = max(falling, key=falling.__getitem__)
    return [
        f"the training loss was still falling at the end of {len(falling)} of the front's {len(shares)} trials: "
        f"{', '.join(map(str, falling))} (trial {most}: {falling[most]:.0%} of its fall came in the last "
        f"{LATE:.0%} of the epochs); more epochs may help"
    ]


def late_fall(history: Path, root: Path | None = None) -> float:
    """Share of the loss's total fall since the first epoch that came in the last ``LATE`` of the epochs.

    0 if the loss did not fall, if there are fewer than four epochs, or if the history cannot be read.
    """
    values = losses(history, root)
    if len(values) < 4:
        return 0.0
    fall = values[0] - values[-1]
    before = values[-1 - max(1, round(LATE * (len(values) - 1)))]
    return (before - values[-1]) / fall if fall > 0 else 0.0


def losses(history: Path, root: Path | None = None) -> list[float]:
    """The training loss of each epoch; empty if the history cannot be read or has a loss that is not finite."""
    values = [row.get("loss", math.nan) for row in read_history(history, root)]
    return values if all(map(math.isfinite, values)) else []
