"""``confirm``: train the likely members of a front on new seeds, and time their files side by side.

    choose points -> train each on k seeds -> test accuracy, once -> bench -> members by validation, with intervals

The search selected its best points by their measured values, so these values are biased upwards (the winner's curse).
The confirmed values are published beside those of the search. An interrupted run can be continued: a seed that has its
record is not trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, SpaceError
from harness.files.checksums import AGAIN, read_or_damage, write_checked_json
from harness.files.folders import check_cache
from harness.measure.bench import Timing, bench
from harness.measure.lab import Job, Lab
from harness.recipe import Recipe, parse_recorded
from harness.records import WIDEST_FP32, TrialRecord, read_json, read_record, trial_folder
from harness.search.driver import TRIAL_MODULE
from harness.search.jobs import Pool
from harness.search.last_words import last_words
from harness.search.lock import run_lock
from harness.search.preflight import teacher_trees
from harness.search.resume import check_same_data, made_of
from harness.search.signals import Stop
from harness.space import trust
from harness.space.space import Space, load_space
from harness.trial.job import Prepared, TrialJob
from harness.verify.confirmation import Confirmation
from harness.verify.membership import confirmed, likely

SEEDS_FROM = 2**30  # larger than every seed of a search, so that new trainings are independent of it
RESULT = "confirm.json"


def confirm(
    folder: Path,
    seeds: int = 3,
    bound: float = 0.05,
    most: int = 30,
    seconds: float = 0.5,
    processes: int = 5,
    repeat: int = 0,
    address: str | None = None,
    say: Callable[[str], None] = print,
    make_pool: Callable[[Space], Pool] | None = None,
    lab: Callable[[], Lab] = Lab,
    trusted: bool = False,
    ask: Callable[[str], bool] | None = None,
) -> Confirmation:
    """Confirm the front of the study in ``folder`` and write ``confirm.json``.

    Args:
        seeds: number of trainings per point.
        bound: confirm the points whose probability of being on the front is above this.
        most: confirm at most this many points, the most likely first.
        repeat: 1, 2, ... repeats the confirmation independently, on other seeds.
        trusted: run the code that the study names; otherwise call ``ask`` (:mod:`harness.space.trust`).
    Raises:
        SpaceError: the folder holds no finished study, or names code that the user has not agreed to.
    """
    trust.require("confirm", folder, trust.study_code(folder), trusted, ask)
    check_cache()
    space = load_space(folder / "space.yaml")
    study, wrong = read_or_damage(folder / "study.json")
    if wrong:
        raise SpaceError("", wrong, file=str(folder), remedy=AGAIN)
    if study.get("fingerprint", space.fingerprint()) != space.fingerprint():
        raise SpaceError(
            "",
            "is not the space of this search (by its study.json)",
            file=str(folder / "space.yaml"),
            remedy="Remove it and run the search's command again, which restores it.",
        )
    killed = f"harness: {folder}: the confirmation was killed. Finished trainings are kept; the same command continues."
    with run_lock(folder), last_words(killed):
        records = _finished(folder, space)
        chosen = likely(space, records, bound, most)
        say(f"confirming {len(chosen)} points on {seeds} seeds each")
        place = folder / "confirm" / str(repeat)
        runs = _train(space, {n: records[n].recipe for n in chosen}, seeds, repeat, place, address, make_pool, say)
        timings = _time(folder, records, chosen, seconds, processes, lab, say)
        result: Confirmation = {
            **confirmed(space, records, chosen, runs, timings),
            "seeds": seeds,
            "bound": bound,
            "repeat": repeat,
            "processes": processes,
        }
        write_checked_json(folder / (RESULT if not repeat else f"confirm-{repeat}.json"), result)
    return result


def _finished(folder: Path, space: Space) -> dict[int, TrialRecord]:
    """The records of all finished trials with a value of every objective, by number.

    Raises:
        SpaceError: there are none.
    """
    finished: dict[int, TrialRecord] = {}
    for path in sorted((folder / "trials").glob("[0-9]*")):
        record = read_record(path)
        if (
            record is not None
            and record.status == "ok"
            and all(record.value(o.name) is not None for o in space.objectives)
        ):
            finished[record.number] = record
    if not finished:
        raise SpaceError("", "must be the folder of a study with finished trials", file=str(folder))
    return finished


def _train(
    space: Space,
    chosen: Mapping[int, Mapping[str, Any]],
    seeds: int,
    repeat: int,
    place: Path,
    address: str | None,
    make_pool: Callable[[Space], Pool] | None,
    say: Callable[[str], None],
) -> dict[int, list[TrialRecord]]:
    """The records of ``seeds`` new trainings of each point (number -> recipe), with test accuracies."""
    jobs = {n * 1000 + s: (n, s, place / f"{n:05d}" / str(s)) for n in chosen for s in range(seeds)}
    todo = [job for job, (_, _, path) in jobs.items() if not _scored(path)]
    if todo:
        folders = {n: trial_folder(place.parent.parent, n) for n in chosen}
        recipes = {n: parse_recorded(t, space.registries, folders[n] / "record.json") for n, t in chosen.items()}
        with Stop() as stop:  # a signal ends it; finished trainings are kept
            pool = (make_pool or (lambda s: _pool(s, address)))(space)
            try:
                stop.reinstall()
                data = pool.call("fingerprint", teacher_trees(space)[0])
                check_same_data(place.parent.parent, made_of(space, data))
                prepared: Prepared = pool.call("prepare", teacher_trees(space), str(place.resolve()))
                pool.share(prepared.logits)
                seed = SEEDS_FROM + repeat * 1_000_000
                _work(pool, todo, jobs, lambda n, s: replace(recipes[n], seed=seed + n * 1000 + s), say)
                _score(pool, [path for job in todo if _trained(path := jobs[job][2])])
            finally:
                pool.close()
    runs: dict[int, list[TrialRecord]] = {n: [] for n in chosen}
    for number, _, path in jobs.values():
        record = read_record(path)
        if record is None or record.status != "ok" or not _scored(path):
            reason = "no record" if record is None else record.reason
            raise HarnessError(f"{path}: the training did not finish ({reason}); run the same command to continue")
        test = read_json(path / "test.json")
        runs[number].append(record.model_copy(update={"diagnostics": {**record.diagnostics, "test": test}}))
    return runs


def _pool(space: Space, address: str | None) -> Pool:
    from harness.search.cluster import connect
    from harness.search.pool import RayPool

    slots = connect(space.settings.resources, address)
    return RayPool(slots, space.settings.resources, TRIAL_MODULE, space.settings.timeout_s)


def _trained(path: Path) -> bool:
    record = read_record(path)
    return record is not None and record.status == "ok"


def _scored(path: Path) -> bool:
    return _trained(path) and bool(read_json(path / "test.json"))


def _work(pool: Pool, todo: list[int], jobs: Mapping[int, Any], recipe: Callable[[int, int], Recipe], say: Any) -> None:
    waiting, total = [job for job in todo if not _trained(jobs[job][2])], len(todo)
    ended = total - len(waiting)
    while waiting or pool.running:
        while waiting and pool.free:
            job = waiting.pop(0)
            number, seed, path = jobs[job]
            pool.submit(job, "run", TrialJob(recipe(number, seed), number, path.resolve()), logits=True)
        for answer in pool.wait(1.0):
            ended += 1
            say(
                f"{ended} of {total}: trial {jobs[answer.job][0]}"
                + (f" failed: {answer.error}" if answer.error else "")
            )


def _score(pool: Pool, paths: list[Path]) -> None:
    """Measure every file's test accuracy and write it to ``test.json``."""
    waiting = dict(enumerate(paths))
    todo = list(waiting)
    while todo or pool.running:
        while todo and pool.free:
            number = todo.pop()
            pool.submit(number, "score_test", str(waiting[number].resolve()))
        for answer in pool.wait(1.0):
            if not answer.error:
                write_checked_json(waiting[answer.job] / "test.json", answer.value)


def _time(
    folder: Path,
    records: Mapping[int, TrialRecord],
    chosen: list[int],
    seconds: float,
    processes: int,
    lab: Callable[[], Lab],
    say: Callable[[str], None],
) -> dict[int, Timing]:
    """Latency of each point's file, measured in one bench; points of equal structure share one timing."""
    reference = next((n for n, r in records.items() if r.baseline == WIDEST_FP32), chosen[0])
    first: dict[tuple[str, ...], int] = {}
    for number in [reference, *chosen]:
        first.setdefault(_structure(records[number]), number)
    say(f"timing {len(first)} structures in {processes} processes")
    numbers = list(first.values())
    deploy = records[reference].recipe["deploy"]
    jobs = [Job(records[n].file(trial_folder(folder, n)), records[n].recipe["deploy"]["runtime"]) for n in numbers]
    timed = bench(jobs, 0, deploy["batch_size"], deploy["threads"], seconds, processes, lab)
    by_number = dict(zip(numbers, timed.timings, strict=True))
    return {n: by_number[first[_structure(records[n])]] for n in [reference, *chosen]}


def _structure(record: TrialRecord) -> tuple[str, ...]:
    return (record.structure, str(sorted(record.recipe["deploy"].items())))
