"""What each file on the front stores and computes: one row per point, from the audits in the records."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from harness.report import units
from harness.report.study_data import StudyData

COLUMNS = ("trial", "stored as", "zeros", "masked channels", "integer layers", "kernels", "parity", "latency", "load")


def audit_rows(data: StudyData) -> list[list[str]]:
    """One row of ``COLUMNS`` for every point of the front whose record holds an audit."""
    rows = []
    for number in data.front["number"].tolist():
        audit = data.records[number].diagnostics.get("audit")
        if isinstance(audit, dict) and isinstance(audit.get("layers"), list):
            rows.append([str(number), *_layers(audit["layers"]), *_measured(data, number)])
    return rows


def slower_integers(data: StudyData) -> list[str]:
    """A sentence if integer kernels are slower than float32 for some network that was timed with both, and the
    latency intervals do not overlap. It happens: on some runtimes a narrow network gains nothing from integers."""
    both = [(kinds[False], kinds[True]) for kinds in _timed_networks(data).values() if len(kinds) == 2]
    slower = [(plain, whole) for plain, whole in both if whole.low > plain.high]
    if not slower:
        return []
    plain, whole = max(slower, key=lambda pair: pair[1].median / pair[0].median)
    return [
        f"Integers are slower than float32 here, in {len(slower)} of {len(both)} networks that were timed with both: "
        f"trial {whole.trial} takes {whole.median / plain.median:.2f} times the latency of trial {plain.trial} "
        f"({units.time(plain.median)}), which has the same layers in float32."
    ]


@dataclass(frozen=True)
class _Timed:
    """The first trial that timed a network in one kind of arithmetic, its latency and interval in ms."""

    trial: int
    median: float
    low: float
    high: float


def _timed_networks(data: StudyData) -> dict[tuple[Any, ...], dict[bool, _Timed]]:
    """Layer shapes -> whether the kernels are integer -> the first trial that was timed that way."""
    networks: dict[tuple[Any, ...], dict[bool, _Timed]] = {}
    for number, record in data.records.items():
        layers = record.diagnostics.get("audit", {}).get("layers", [])
        whole = {bool(layer["integer"]) for layer in layers}
        if "latency_ms" not in record.measurements or len(whole) != 1:
            continue
        network = tuple(tuple(layer["shape"]) for layer in layers)
        latency = record.measurements["latency_ms"]
        networks.setdefault(network, {}).setdefault(whole.pop(), _Timed(number, latency.median, *latency.interval()))
    return networks


def _layers(layers: list[dict[str, Any]]) -> list[str]:
    weights = [_count(layer["shape"]) for layer in layers]
    zeros = sum(layer["zeros"] * w for layer, w in zip(layers, weights, strict=True)) / max(sum(weights), 1)
    whole = sum(bool(layer["integer"]) for layer in layers)
    return [
        _counted(layer["stored"] for layer in layers),
        units.share(zeros),
        str(sum(layer["zero_channels"] for layer in layers)),
        f"{whole} of {len(layers)}",
        _counted(layer["kernel"] for layer in layers),
    ]


def _measured(data: StudyData, number: int) -> list[str]:
    record = data.records[number]
    parity = record.diagnostics.get("parity", {})
    same = f"{parity['n'] - parity['disagreements']:.0f} of {parity['n']:.0f}" if "n" in parity else ""
    conditions = record.measurements["latency_ms"].conditions if "latency_ms" in record.measurements else {}
    return [same, str(conditions.get("verdict", "")), units.time(conditions.get("load_ms"))]


def _count(shape: list[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _counted(words: Any) -> str:
    """The distinct words, each with its count if that is above 1: ``int8 x 2, float32``."""
    return ", ".join(word if n == 1 else f"{word} x {n}" for word, n in Counter(words).items())


NEEDS = {
    "x86": "on x86 without VNNI, set onnxruntime's session.x64quantprecision=1 for these trials; otherwise their "
    "accuracy is lower there",
    "wrong": "OpenVINO computes wrong outputs for the files of these trials (weights stored as a stream of bits)",
}


def needs(data: StudyData) -> list[str]:
    """What deployment of the front's files must respect: sentences, each with the trials that it applies to."""
    front = {n: data.records[n].diagnostics.get("facts", {}) for n in data.front["number"].tolist()}
    trials_by_sentence = {
        sentence: [str(n) for n, facts in front.items() if name in facts] for name, sentence in NEEDS.items()
    }
    return [f"{sentence}: {', '.join(numbers)}" for sentence, numbers in trials_by_sentence.items() if numbers]
