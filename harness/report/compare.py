"""Studies side by side: hypervolume over time and epochs, fronts, attained accuracy, a verdict.

Fronts are chosen on validation values and compared on test values, because the best of more trials overestimates more
on validation. Each point of a curve over time takes the front that validation had chosen by then, and computes the
hypervolume of its members' test values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import SpaceError
from harness.records import read_told
from harness.report.fronts import reference_point
from harness.report.loading import load_study
from harness.report.study_data import StudyData
from harness.space.settings import Objective
from harness.stats.direction import Direction
from harness.stats.intervals import difference_interval
from harness.stats.pareto import Front, log_hypervolume

POINTS = 5  # sizes and latencies at which attained accuracies are given


@dataclass(frozen=True)
class Step:
    """The state of a search just after one trial was reported to Optuna."""

    elapsed_s: float
    epochs: int
    volume: float


@dataclass(frozen=True)
class Contender:
    """One way to search: its studies (one per seed), and for each study the steps of its hypervolume."""

    label: str
    studies: tuple[StudyData, ...]
    curves: tuple[tuple[Step, ...], ...]

    @property
    def final(self) -> list[float]:
        return [curve[-1].volume for curve in self.curves]


def load_contenders(arguments: Sequence[str]) -> list[Contender]:
    """Read the studies that the command line names: each argument is ``LABEL=STUDY[,STUDY...]`` or ``STUDY``.

    Raises:
        SpaceError: a folder is not a study, or two studies have different objectives.
    """
    named = [a.partition("=") if "=" in a else (Path(a).name, "=", a) for a in arguments]
    loaded = {label: tuple(load_study(p) for p in paths.split(",")) for label, _, paths in named}
    everything = [s for studies in loaded.values() for s in studies]
    objectives = everything[0].objectives
    for study in everything:
        if study.objectives != objectives:
            names = ", ".join(o.name for o in study.objectives)
            raise SpaceError(str(study.folder), "has other objectives than the first study", names)
    reference = common_reference(everything)
    return [
        Contender(label, studies, tuple(tuple(steps(s, reference)) for s in studies))
        for label, studies in loaded.items()
    ]


def common_reference(studies: Sequence[StudyData]) -> dict[str, float]:
    """In every objective the worst value among the studies' own reference points."""
    points = [reference_point(s) for s in studies]
    worst = {"maximize": min, "minimize": max}
    return {o.name: worst[o.direction](p[o.name] for p in points) for o in studies[0].objectives}


def volume(
    rows: Sequence[Mapping[str, float]], reference: Mapping[str, float], directions: Sequence[Direction]
) -> float:
    """Hypervolume of points (objective name -> raw value) up to the reference."""
    values = np.array([[row[name] for name in reference] for row in rows]).reshape(-1, len(reference))
    return log_hypervolume(values, reference, directions)


def steps(study: StudyData, reference: Mapping[str, float]) -> list[Step]:
    """The hypervolume, on test values, after every trial that was reported to Optuna."""
    directions = tuple(o.direction for o in study.objectives)
    front, curve, last = Front(directions), [], 0.0
    rows = study.finished[study.finished["feasible"]].to_dict("index")
    for number, elapsed, epochs in _timeline(study):
        row = rows.get(number)
        if row is not None and front.add(number, [row[o.name] for o in study.objectives]):
            last = volume([tested(rows[n], study.qualities) for n in front.numbers], reference, directions)
        curve.append(Step(elapsed, epochs, last))
    return curve or [Step(0.0, 0, 0.0)]


def tested(row: Mapping[str, float], qualities: Sequence[Objective]) -> dict[str, float]:
    """The row with validation values of the qualities replaced by test values, where it has them."""
    test_values = {q.name: row[f"test_{q.name}"] for q in qualities if not math.isnan(row[f"test_{q.name}"])}
    return {**row, **test_values}


def _timeline(study: StudyData) -> list[tuple[int, float, int]]:
    path = study.folder / "told.csv"
    if not path.exists():
        raise SpaceError(str(study.folder), "has no told.csv", remedy="Search it again with this version.")
    rows, damaged = read_told(path)
    if damaged:
        raise SpaceError(
            "",
            f"line {damaged[0]} is damaged",
            file=str(path),
            remedy="Run the search's command again: it restores the line from the trial's record.",
        )
    return [(number, float(elapsed), int(epochs)) for number, elapsed, epochs in rows if epochs]


def at(curve: Sequence[Step], where: float, axis: str) -> float:
    """The volume that the curve has reached at position ``where`` of the axis ``elapsed_s`` or ``epochs``."""
    reached = [s.volume for s in curve if getattr(s, axis) <= where]
    return reached[-1] if reached else 0.0


def reach(curve: Sequence[Step], volume: float, axis: str) -> float:
    """The first position on ``axis`` at which the curve has ``volume``; infinite if it never has."""
    return next((float(getattr(s, axis)) for s in curve if s.volume >= volume - 1e-12), math.inf)


def verdicts(contenders: Sequence[Contender]) -> list[str]:
    """One sentence for each contender but the first: how the first compares with it."""
    first, sentences = contenders[0], []
    for other in contenders[1:]:
        mean, low, high = difference_interval(first.final, other.final)
        seeds = f"{len(first.studies)} against {len(other.studies)} studies"
        if math.isinf(low):
            said = f"hypervolume {mean:+.4f}; two studies of each are needed for an interval"
        else:
            word = "better than" if low > 0 else "worse than" if high < 0 else "not shown to differ from"
            said = f"{word} {other.label}: hypervolume {mean:+.4f} (95 % interval {low:+.4f} .. {high:+.4f})"
        target = float(np.median(other.final))
        first_seconds = float(np.median([reach(c, target, "elapsed_s") for c in first.curves]))
        other_seconds = float(np.median([reach(c, c[-1].volume, "elapsed_s") for c in other.curves]))
        took = f", which took {other.label} {other_seconds:.1f} s"
        times = (
            f"; reaches its median in {first_seconds:.1f} s{took}"
            if first_seconds < math.inf
            else "; does not reach its median"
        )
        sentences.append(f"{first.label} against {other.label} ({seeds}): {said}{times}.")
    return sentences


def attained(contenders: Sequence[Contender], cost: str) -> list[tuple[float, list[float]]]:
    """Attained quality under bounds on ``cost``: pairs of a bound and one value per contender.

    In each study the point within the bound that is best on validation in the first quality is taken. The value is
    the median, over the contender's studies, of that point's test value; NaN if no study has a point within it.
    """
    quality = contenders[0].studies[0].quality
    fronts = [[f.to_dict("records") for f in (s.front for s in c.studies)] for c in contenders]
    values = [row[cost] for studies in fronts for rows in studies for row in rows]
    if not values:
        return []
    bounds = np.geomspace(min(values), max(values), POINTS)
    return [
        (float(b), [_median([_best(rows, cost, b, quality) for rows in studies]) for studies in fronts]) for b in bounds
    ]


def _best(rows: Sequence[Mapping[str, float]], cost: str, bound: float, quality: Objective) -> float:
    best = max if quality.direction == "maximize" else min
    within = [r for r in rows if r[cost] <= bound * (1 + 1e-9)]
    return tested(best(within, key=lambda r: r[quality.name]), [quality])[quality.name] if within else math.nan


def _median(values: Sequence[float]) -> float:
    numbers = [v for v in values if not math.isnan(v)]
    return float(np.median(numbers)) if numbers else math.nan
