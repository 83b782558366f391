"""What must hold of a study that was struck and resumed, read without harness: JSON as it stands, the
journal through Optuna's own backend, recipes filled by hand, fronts by comparing every pair."""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

TRIALS = 8
WIDTHS, BITS = [4, 8, 16], [2, 4, 8, 32]
SPACE = f"""
task: {{name: digits}}
student: {{model: convnet, width: {{choice: {WIDTHS}}}}}
train: {{epochs: 3, lr: {{float: [0.01, 0.3], log: true}}}}
quant: {{bits: {{choice: {BITS}}}}}
search: {{trials: {TRIALS}, seed: 1}}
first: [{{name: mine, student.width: 8, quant.bits: 4}}]
"""


@dataclass
class Snapshot:
    """What was acknowledged at the strike: told trials by the journal, finished work by whole records."""

    told: dict[int, tuple[TrialState, list[float] | None]] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    records: dict[int, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def of(box: Path) -> Snapshot:
        trials = journal_of(box / "study")
        done = (TrialState.COMPLETE, TrialState.PRUNED)
        return Snapshot(
            {t.number: (t.state, t.values) for t in trials if t.state in done},
            {t.number for t in trials if t.state is TrialState.RUNNING},
            {t.number: r for t in trials if (r := record_of(box / "study", t.number)) is not None},
        )


def journal_of(folder: Path) -> list[FrozenTrial]:
    """Trials by Optuna's own reader, from the whole lines of the journal."""
    path = folder / "study.log"
    if not path.exists():
        return []
    whole = path.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, "study.log")
        copy.write_bytes(whole)
        storage = JournalStorage(JournalFileBackend(str(copy)))
        studies = storage.get_all_studies()
        return storage.get_all_trials(studies[0]._study_id) if studies else []


def record_of(folder: Path, number: int) -> dict[str, Any] | None:
    """The record as JSON, where it and its file are whole."""
    place = folder / "trials" / f"{number:05d}"
    try:
        record = json.loads((place / "record.json").read_bytes())
        file = record["artifact"]
        if file is not None and hashlib.sha256((place / file["path"]).read_bytes()).hexdigest() != file["sha256"]:
            return None
    except (OSError, ValueError):
        return None
    return record


def median(record: dict[str, Any], name: str) -> float:
    return statistics.median(record["measurements"][name]["values"])


OBJECTIVES = ("accuracy", "size_bytes", "latency_ms")
TEMPORARY = re.compile(r"\.tmp$|^untrained\.onnx$")


def violations(box: Path, before: Snapshot) -> list[str]:
    folder = box / "study"
    trials = {t.number: t for t in journal_of(folder)}
    records = {n: r for n in trials if (r := record_of(folder, n)) is not None}
    complete = {n: t for n, t in trials.items() if t.state is TrialState.COMPLETE}
    told = {n: t for n, t in trials.items() if n in complete or t.state is TrialState.PRUNED or "final" in t.user_attrs}
    found = [*_exactly_once(box, before, trials, complete, records)]
    found += [f"I2: trial {n} is COMPLETE without a whole record and file" for n in complete if n not in records]
    left = {TrialState.RUNNING, TrialState.WAITING}
    found += [f"I3: trial {n} is {t.state.name}" for n, t in trials.items() if t.state in left]
    found += [*_front(folder, complete), *_recipes(told, records), *_beside(folder, told, complete)]
    return found


def _exactly_once(
    box: Path,
    before: Snapshot,
    trials: dict[int, FrozenTrial],
    complete: dict[int, FrozenTrial],
    records: dict[int, dict[str, Any]],
) -> list[str]:
    found = []
    for number, (state, values) in before.told.items():
        if number not in trials or (trials[number].state, trials[number].values) != (state, values):
            found.append(f"I1: trial {number} was told {state.name} {values} and is no longer")
    started = Counter((box / "started").read_text().split())
    for number, record in before.records.items():
        if record["status"] == "ok" and number in before.running:
            same = number in complete and all(
                records.get(number, record)["measurements"][name] == record["measurements"][name]
                for name in record["measurements"]
            )
            if not same or started[str(number)] != 1:
                found.append(f"I1: trial {number} had finished and was lost, changed or run again")
    for number, trial in complete.items():
        if number in records and trial.values != [median(records[number], name) for name in OBJECTIVES]:
            found.append(f"I1: trial {number} was told other values than its record has")
    recipes = Counter(json.dumps({**r["recipe"], "seed": 0}) for n, r in records.items() if n in complete)
    found += [f"I1: {count} trials have one recipe" for count in recipes.values() if count > 1]
    return found


def _front(folder: Path, complete: dict[int, FrozenTrial]) -> list[str]:
    """The front by comparing every pair."""
    losses = {n: (-t.values[0], *t.values[1:]) for n, t in complete.items()}
    best = {v for v in losses.values() if not any(_dominates(w, v) for w in losses.values())}
    summary = json.loads((folder / "study.json").read_bytes())
    found = [] if {losses.get(n) for n in summary["front"]} == best else [f"I5: the front is {summary['front']}"]
    tested = json.loads((folder / "test.json").read_bytes())
    found += [f"I5: trial {n} of the front has no test score" for n in summary["front"] if str(n) not in tested]
    if summary["status"] != "complete" or summary["finished"] != TRIALS:
        found.append(f"resume: {summary['status']} with {summary['finished']} finished")
    return found


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _recipes(told: dict[int, FrozenTrial], records: dict[int, dict[str, Any]]) -> list[str]:
    found = []
    for number, trial in told.items():
        record = records.get(number)
        if record is None or not trial.params:
            continue
        recipe = record["recipe"]
        made = [trial.params[name] for name in ("student.width", "train.lr", "quant.bits")]
        recorded = [recipe["student"]["width"], recipe["train"]["lr"], recipe["quant"]["bits"]]
        if made != recorded or json.loads(trial.user_attrs["recipe"]) != recipe:
            found.append(f"I6: trial {number}'s parameters make {made}, its recipe has {recorded}")
    return found


def _beside(folder: Path, told: dict[int, FrozenTrial], complete: dict[int, FrozenTrial]) -> list[str]:
    baselines = Counter(t.user_attrs["baseline_index"] for t in complete.values() if "baseline_index" in t.user_attrs)
    found = [f"baseline: {i} ran {baselines[i]} times" for i in range(len(WIDTHS) + 1) if baselines[i] != 1]
    if sum(t.user_attrs.get("named") == "mine" for t in complete.values()) != 1:
        found.append("first: the space's own first trial did not run once")
    found += [f"left: {p.relative_to(folder)}" for p in folder.rglob("*") if TEMPORARY.search(p.name)]
    lines = (folder / "told.csv").read_text().splitlines()
    rows = Counter(line.split(",")[0] for line in lines[1:])
    if lines[0] != "number,elapsed_s,epochs,crc32" or rows != Counter(str(n) for n in told):
        found.append(f"told.csv: it has {dict(rows)} for {sorted(told)}")
    clock = [float(line.split(",")[1]) for line in lines[1:]]
    return found if clock == sorted(clock) else [*found, "told.csv: its clock goes back"]
