"""Train one recipe for production: write a deployable folder, and compare the promised values with the outcome."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import TrialError
from harness.files.access import write_bytes_durably
from harness.files.folders import check_cache
from harness.measure.lab import Lab
from harness.recipe import Recipe
from harness.records import Measurement, TrialRecord, write_record
from harness.runtimes.card import usage

log = logging.getLogger(__name__)
LATENCY_TOLERANCE = 0.05  # of the promised median; a wider promised interval replaces it. Allows for machine noise


@dataclass(frozen=True)
class Check:
    """One promised quantity and its outcome. ``kept`` is None if nothing was promised."""

    name: str
    promised: float | None
    outcome: float
    kept: bool | None
    note: str


@dataclass(frozen=True)
class Produced:
    """The result of :func:`train`: the folder, its record, test metrics, and the checks."""

    folder: Path
    record: TrialRecord
    test: dict[str, float]
    checks: list[Check]


def train(
    recipe: Recipe,
    out: Path | str,
    epochs: int | None = None,
    seed: int | None = None,
    promise: dict[str, Any] | None = None,
    device: str = "cpu",
    on_loaded: Callable[[list[dict[str, Any]]], None] | None = None,
) -> Produced:
    """Train ``recipe`` and write ``out/{model.onnx (or .hpk), recipe.yaml, record.json, model_card.md}``.

    Args:
        epochs: replaces the recipe's number of epochs.
        promise: the values that the search measured (part of best/*.yaml): ``accuracy``,
            ``accuracy_n``, ``size_bytes``, ``latency_ms``, ``latency_interval_ms``, metrics of the
            task, and the ``directions`` of those that were objectives.
        on_loaded: called before the training with the result of :func:`harness.trial.proof.loaded` on the networks
            that the recipe reads from files (default: log those that are weak).
    Raises:
        TrialError: the training failed; the folder then holds the record with the reason.
    """
    from harness.trial import run  # here, because it imports torch
    from harness.trial.job import TrialJob
    from harness.trial.proof import loaded

    check_cache()
    folder = Path(out)
    train = recipe.train if epochs is None else replace(recipe.train, epochs=epochs)
    recipe = replace(recipe, train=train, seed=recipe.seed if seed is None else seed)
    (on_loaded or _log_weak)(loaded(recipe, allow_weak=True))
    record = run.run(TrialJob(recipe, 0, folder), None, device)
    if record.status != "ok":
        raise TrialError(f"training failed: {record.reason}")
    with Lab() as lab:
        [latency] = lab.measure(
            [record.file(folder)],
            None,
            recipe.deploy.runtime,
            recipe.deploy.batch_size,
            recipe.deploy.threads,
            budget_s=2.0,
        )
    record = record.with_measurements(latency)
    write_record(folder, record)
    test = run.score_test(str(folder))
    checks = compare(record, promise or {}, run.metric_spread(str(folder)))
    write_bytes_durably(folder / "model_card.md", model_card(record, folder, test, checks).encode())
    return Produced(folder, record, test, checks)


def _log_weak(networks: list[dict[str, Any]]) -> None:
    for network in networks:
        if network["weak"]:
            log.warning("%(where)s %(file)s: accuracy %(accuracy).4f on validation (chance %(chance).4f)", network)


def compare(record: TrialRecord, promise: dict[str, Any], spread: Mapping[str, float] | None = None) -> list[Check]:
    """A check of every promised quantity, with the rule that decides whether the promise is kept.

    ``spread``: standard deviations of the task's own metrics.
    """
    metrics = [_metric(name, sd, record, promise) for name, sd in (spread or {}).items()]
    return [_accuracy(record, promise), *metrics, _size(record, promise), _latency(record, promise)]


def _metric(name: str, sd: float, record: TrialRecord, promise: dict[str, Any]) -> Check:
    """The check of a task's metric. It needs the metric's direction, which is known only if it was an objective."""
    outcome, promised = record.measurements[name].median, promise.get(name)
    direction = (promise.get("directions") or {}).get(name)
    if promised is None or direction is None:
        return Check(name, promised, outcome, None, "validation")
    worse = (promised - outcome) * (1 if direction == "maximize" else -1)
    margin = 1.96 * math.sqrt(2) * sd
    word = "lower" if direction == "maximize" else "higher"
    rule = f"kept when at most {margin:.4f} {word}: 95 % interval of the difference of two such values (bootstrap)"
    return Check(name, promised, outcome, worse <= margin, rule)


def _accuracy(record: TrialRecord, promise: dict[str, Any]) -> Check:
    measured = record.measurements["accuracy"]
    outcome, promised = measured.median, promise.get("accuracy")
    if promised is None:
        return Check("accuracy", None, outcome, None, "validation")
    n = int(measured.conditions["n"])
    mean = (outcome + promised) / 2
    margin = 1.96 * math.sqrt(max(mean * (1 - mean), 1 / n) * 2 / n)
    return Check(
        "accuracy",
        promised,
        outcome,
        outcome >= promised - margin,
        f"kept when at most {margin:.4f} lower: 95 % interval of the difference of two accuracies on {n} samples",
    )


def _size(record: TrialRecord, promise: dict[str, Any]) -> Check:
    outcome, promised = record.measurements["size_bytes"].median, promise.get("size_bytes")
    kept = None if promised is None else outcome <= 1.01 * promised
    return Check("size_bytes", promised, outcome, kept, "kept when at most 1 % larger")


def _latency(record: TrialRecord, promise: dict[str, Any]) -> Check:
    measured, promised = record.measurements["latency_ms"], promise.get("latency_ms")
    if promised is None:
        return Check("latency_ms", None, measured.median, None, "")
    verdict = measured.conditions.get("verdict", "ok")
    doubt = "" if verdict == "ok" else f"; this measurement is {verdict}"
    highest = max((promise.get("latency_interval_ms") or [promised, promised])[1], (1 + LATENCY_TOLERANCE) * promised)
    return Check(
        "latency_ms",
        promised,
        measured.median,
        measured.interval()[0] <= highest,
        f"kept when the interval reaches down to {highest:.4f} ms: the promised interval or {LATENCY_TOLERANCE:.0%}"
        f"{doubt}",
    )


def _conditions(latency: Measurement) -> str:
    """The conditions of a latency measurement as text."""
    conditions = latency.conditions
    batch = (
        f"batch of {conditions['batch_size']}, {conditions['threads']} thread{'s' if conditions['threads'] > 1 else ''}"
    )
    options = [f"{name} = {value}" for name, value in conditions["options"].items()]
    unstable = f"; {conditions['verdict']}" if conditions["verdict"] != "ok" else ""
    return (
        ", ".join([conditions["runtime"], *options, batch, f"loaded in {conditions['load_ms']:.1f} ms"])
        + unstable
        + "".join(f"; {complaint}" for complaint in conditions["complaints"])
    )


def model_card(record: TrialRecord, folder: Path, test: dict[str, float], checks: list[Check]) -> str:
    """The model card in Markdown: use of the file, measured values and their conditions."""
    latency, env = record.measurements["latency_ms"], record.environment
    low, high = latency.interval()
    task, student = record.recipe["task"]["name"], record.recipe["student"]["model"]
    rows = "\n".join(
        f"| {c.name} | {'' if c.promised is None else f'{c.promised:.6g}'} | {c.outcome:.6g} | "
        f"{ {None: '', True: 'yes', False: 'NO'}[c.kept] } | {c.note} |"
        for c in checks
    )
    runtime = record.recipe["deploy"]["runtime"]
    lines = [
        f"# {student} for {task}",
        "",
        *usage(record.file(folder), runtime, record.diagnostics["facts"]),
        "",
        "## Measured",
        "",
        f"- test accuracy: {test['accuracy']:.4f} (n = {int(test['n'])}), read from the file by {runtime}",
        *(f"- test {name}: {value:.4f}" for name, value in test.items() if name not in ("accuracy", "n")),
        f"- size: {record.artifact.size_bytes if record.artifact else 0:,} bytes on the disk",
        f"- latency: {latency.median:.4f} ms (95 % interval {low:.4f} to {high:.4f}), {_conditions(latency)}",
        f"- machine: {env.get('cpu_model', 'unknown')}; harness {env.get('harness')}, torch {env.get('torch')}",
        "",
        "| quantity | promised | outcome | kept | rule |",
        "|---|---|---|---|---|",
        rows,
        "",
        "The exact recipe is `recipe.yaml`; every raw number is in `record.json`.",
        "",
    ]
    return "\n".join(lines)
