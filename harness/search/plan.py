"""A plan of a search: what it would do and about how long it would take. Checks the space, its data and its networks
as a search does; starts no Ray, trains no trial, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.files.folders import check_cache
from harness.machine.cores import usable_cores
from harness.search import preflight, resume
from harness.search.budget import Budget
from harness.search.driver import TRIAL_MODULE
from harness.search.examination import Examination, say_loaded, say_proven
from harness.search.lock import holder
from harness.search.samplers import choose
from harness.search.tracking import known_trackers
from harness.space.distributions import Hole
from harness.space.space import Space
from harness.trial.job import Pace, Proven

OVERHEAD_S = 1.0  # of a trial besides training: export, scoring, timing of the file. As in results/reference/digits
START_S = 15.0  # until the first trial: Ray, imports, first export, besides the teacher
MOST_VALUES = 8  # of a choice that are listed


@dataclass(frozen=True)
class Plan:
    """What a search would do.

    budget      in words
    finished    trials that have ended in a study that is continued
    running     state and process of a search that works on the study now; empty if there is none
    baselines   name -> how many
    data        name of a part -> shape and type of its samples
    parameters  name -> its range or choices, in words
    slots       trials that train at the same time on this machine
    pace        measured; minutes is an estimate from it, None if the number of trials is not limited
    """

    folder: Path | None
    budget: str
    finished: int
    running: str
    baselines: Mapping[str, int]
    data: Mapping[str, str]
    parameters: Mapping[str, str]
    objectives: tuple[str, ...]
    sampler: str
    epochs: int
    slots: int
    pace: Pace
    minutes: float | None

    def __str__(self) -> str:
        return "\n".join(f"{f'{name}:' if name else '':<12} {text}" for name, text in self._lines())

    def _lines(self) -> Iterator[tuple[str, str]]:
        if self.folder is not None:
            state = f" ({self.running} now)" if self.running else " (continued)" if self.finished else ""
            yield "study", f"{self.folder}{state}"
        for i, (part, text) in enumerate(self.data.items()):
            yield "" if i else "data", f"{part} {text}"
        first = ", ".join(f"{count} {name}" if count > 1 else name for name, count in self.baselines.items())
        ended = f" ({self.finished} have ended)" if self.finished else ""
        yield "trials", f"{self.budget}{ended}, {self.epochs} epochs each; sampler {self.sampler}"
        yield "baselines", f"{first} (among the trials)"
        yield "objectives", ", ".join(self.objectives)
        width = max(map(len, self.parameters), default=0)
        for i, (name, values) in enumerate(self.parameters.items()):
            yield "" if i else "parameters", f"{name:<{width}}  {values}"
        yield "slots", f"{self.slots} on this machine, one trial each"
        teacher = f"; the teacher takes {self.pace.teacher_s:.0f} s first" if self.pace.teacher_s >= 0.5 else ""
        yield "pace", f"an epoch of the widest student takes {self.pace.epoch_s:.2g} s in one slot{teacher}"
        known = "unknown without a limit of trials" if self.minutes is None else f"about {_minutes(self.minutes)}"
        yield "time", f"{known}, if every trial were as slow as the widest student; stopped trials and lanes save time"


def plan(space: Space, folder: Path | None = None, say: Callable[[str], None] = lambda text: None) -> Plan:
    """Plan a search of ``space``, to be written into ``folder``.

    Raises:
        SpaceError: a mistake in the space, its data, its networks or its code, or ``folder`` holds another study.
    """
    check_cache()
    preflight.check_given(space)
    known_trackers(space.settings.track)
    continued = folder is not None and (folder / "space.yaml").exists()
    if folder is not None and continued:
        resume.check_same_space(space, folder)
        resume.check_same_code(space, folder)
        resume.check_same_words(space, folder)
    widest = space.baselines()[0].recipe
    arguments = {
        **preflight.looked_at(space),
        "pace": (widest.to_tree(), preflight.teacher_trees(space)),
    }
    with Examination(TRIAL_MODULE, arguments) as examination, space.source.at("", ()):
        say("loading data and networks")
        say_loaded(examination.answer(), say)
        data: Mapping[str, str] = examination.answer()
        if folder is not None and continued:
            resume.check_same_data(folder, resume.made_of(space, data))
        say("testing that the students train and export")
        proven: Proven = examination.answer()
        say_proven(proven, say)
        say("timing an epoch")
        pace: Pace = examination.answer()
    budget, slots = Budget.of(space.settings), local_slots(space)
    finished = len(list(folder.glob("trials/*/record.json"))) if folder is not None and continued else 0
    names = [b.name for b in space.baselines()]
    return Plan(
        folder=folder,
        budget=_words(budget),
        finished=finished,
        running=holder(folder) if folder is not None and continued else "",
        baselines={name: names.count(name) for name in names},
        data={name.removesuffix(" x"): text.split(" sha256")[0] for name, text in data.items() if name.endswith(" x")},
        parameters={hole.internal: _values(hole) for hole in space.holes},
        objectives=tuple(f"{o.direction} {o.name}" for o in space.objectives),
        sampler=choose(space),
        epochs=widest.train.epochs,
        slots=slots,
        pace=pace,
        minutes=_estimate(budget, finished, widest.train.epochs, slots, pace),
    )


def local_slots(space: Space) -> int:
    """How many trials train at the same time on this machine."""
    resources = space.settings.resources
    return resources.slots or max(1, usable_cores() // resources.cpu)


def _estimate(budget: Budget, finished: int, epochs: int, slots: int, pace: Pace) -> float | None:
    """Minutes of the rest of the search, or the budget of time if that is shorter."""
    limits = [] if budget.seconds is None else [budget.seconds]
    if budget.epochs is not None:
        limits.append(budget.epochs * pace.epoch_s / slots + budget.epochs / epochs * OVERHEAD_S / slots)
    if budget.trials is not None:
        limits.append(max(0, budget.trials - finished) * (epochs * pace.epoch_s + OVERHEAD_S) / slots)
    return (START_S + pace.teacher_s + min(limits)) / 60 if limits else None


def _words(budget: Budget) -> str:
    limits = {"trials": budget.trials, "epochs in all": budget.epochs, "s": budget.seconds}
    return " or ".join(f"{value:g} {name}" for name, value in limits.items() if value is not None)


def _values(hole: Hole) -> str:
    """The range or the choices of a hole, in words."""
    if hole.kind == "choice":
        more = ", ..." if len(hole.labels) > MOST_VALUES else ""
        return ", ".join(hole.labels[:MOST_VALUES]) + more
    low, high = hole.bounds()
    scale = ", log" if hole.log else f", step {hole.step:g}" if hole.step is not None and hole.step != 1 else ""
    return f"{low:g} to {high:g} ({hole.kind}{scale})"


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return f"{max(1, round(60 * minutes))} s"
    return f"{minutes:.1f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
