"""``check``: measure all files of a study's front on this machine, and compare with the study's numbers.

Runs the code that the study names (a task loads the validation data) only if the user has agreed to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import SpaceError
from harness.files.access import FileMistake, check_way
from harness.files.checksums import AGAIN, read_or_damage
from harness.machine.host import environment
from harness.measure.bench import Timing, bench
from harness.measure.lab import Job, Lab
from harness.records import WIDEST_FP32, TrialRecord, matches, parse_record, trial_folder
from harness.space import trust

RATIO_TOLERANCE = 0.05  # of a latency ratio: the least difference that counts; less would flag noise between machines
FLIPPED = 2  # samples whose class may differ on another instruction set or runtime version
SATURATED = 0.01  # share of the samples whose class may differ if the record does not tell that integers were exact


@dataclass(frozen=True)
class Claim:
    """One number that a study states (``claimed``), and the number measured here (``found``)."""

    file: str
    quantity: str
    claimed: str
    found: str
    holds: bool
    rule: str


def check(
    folder: Path,
    seconds: float = 0.5,
    processes: int = 5,
    lab: Callable[[], Lab] = Lab,
    trusted: bool = False,
    ask: Callable[[str], bool] | None = None,
) -> list[Claim]:
    """Measure the files of the study's front again.

    Args:
        seconds: timed seconds per file and process.
        trusted: run the code that the study names; otherwise call ``ask`` (:mod:`harness.space.trust`).
    Raises:
        SpaceError: the folder holds no finished study, or names code that the user has not agreed to.
    """
    records = claimed_records(folder)
    code = {name for record in records.values() for name in trust.named_code(record.recipe)}
    trust.require("check", folder, code, trusted, ask)
    claims = [_bytes(folder, record) for record in records.values()]
    intact = {n: r for (n, r), c in zip(records.items(), claims, strict=True) if c.holds}
    claims += [claim for record in intact.values() for claim in _scores(folder, record)]
    return claims + _latencies(folder, intact, seconds, processes, lab)


def claimed_records(folder: Path) -> dict[int, TrialRecord]:
    """The records of the front and of the reference. Their files may be missing or changed."""
    study, wrong = read_or_damage(folder / "study.json")
    if wrong:
        raise SpaceError("", wrong, file=str(folder), remedy=AGAIN)
    if not isinstance(study.get("front"), list) or not all(type(n) is int for n in study["front"]):
        raise SpaceError(
            "",
            "must be the folder of a finished study (it holds no study.json)",
            file=str(folder),
            remedy="Give the folder that `harness search` printed, such as results/digits.",
        )
    records = {}
    check_way(folder / "trials" / "0", folder)
    for path in sorted((folder / "trials").glob("*/record.json")):
        try:
            record = parse_record(path.parent, folder)
        except (OSError, ValueError, FileMistake):
            continue  # if it belongs to the front, the check of `lost` below reports it
        if record.number in study["front"] or record.baseline == WIDEST_FP32:
            records[record.number] = record
    lost = sorted(set(study["front"]) - set(records))
    if lost:
        raise SpaceError("trials", f"the records of trials {lost} of the front are lost or broken", file=str(folder))
    return records


def _bytes(folder: Path, record: TrialRecord) -> Claim:
    path = trial_folder(folder, record.number) / (record.artifact.path if record.artifact else "")
    size = str(path.stat().st_size) if path.is_file() else "no file"
    same = record.artifact is not None and matches(path, record.artifact)
    claimed = record.artifact.size_bytes if record.artifact else 0
    measured = size if same or size != str(claimed) else f"{size}, other content"
    return Claim(str(path), "bytes", str(claimed), measured, same, "equal size and SHA-256")


def _scores(folder: Path, record: TrialRecord) -> list[Claim]:
    """Claims on accuracy and on the task's own metrics, computed from the file."""
    from harness.recipe import parse_recorded
    from harness.registries import REGISTRIES
    from harness.trial import score

    path = record.file(trial_folder(folder, record.number))
    recipe = parse_recorded(record.recipe, REGISTRIES, path.parent / "record.json")
    data = score.data_of(recipe)
    allowed, rule = _allowed(record.environment, len(data.validation[1]))
    claims = []
    for name, measured in score.file_metrics(path, data, "validation", recipe.deploy.runtime).items():
        claimed = record.value(name)
        if claimed is not None:
            holds = abs(measured - claimed) <= allowed * max(1.0, abs(claimed))
            claims.append(Claim(str(path), name, f"{claimed:.6f}", f"{measured:.6f}", holds, rule))
    return claims


def _allowed(there: Mapping[str, Any], n: int) -> tuple[float, str]:
    """The allowed difference of an accuracy on ``n`` samples from the record's, and the rule in words.

    ``there`` is the environment in the record.
    """
    if "session_options" not in there:
        return max(SATURATED, FLIPPED / n), f"within {SATURATED:.0%} (the record does not say how integers were summed)"
    if all(there.get(k) == environment()[k] for k in ("isa", "onnxruntime", "session_options")):
        return 0.0, "equal"
    return (FLIPPED + 0.5) / n, f"within {FLIPPED} samples (another instruction set or runtime version)"


def _latencies(
    folder: Path, records: Mapping[int, TrialRecord], seconds: float, processes: int, lab: Callable[[], Lab]
) -> list[Claim]:
    """Claims on latency ratios to the widest fp32 student: ratios differ less between machines than milliseconds."""
    reference = next((r for r in records.values() if r.baseline == WIDEST_FP32), None)
    if reference is None or "latency_ms" not in reference.measurements:
        return []
    others = [r for r in records.values() if r is not reference and "latency_ms" in r.measurements]
    deploy: Mapping[str, Any] = reference.recipe["deploy"]
    jobs = [Job(r.file(trial_folder(folder, r.number)), r.recipe["deploy"]["runtime"]) for r in (reference, *others)]
    benchmark = bench(jobs, 0, deploy["batch_size"], deploy["threads"], seconds, processes, lab)
    return [_ratio(r, reference, t) for r, t in zip(others, benchmark.timings[1:], strict=True)]


def _ratio(record: TrialRecord, reference: TrialRecord, timing: Timing) -> Claim:
    latency, reference_latency = record.measurements["latency_ms"], reference.measurements["latency_ms"]
    claimed = latency.median / reference_latency.median
    low, high = (
        latency.interval()[0] / reference_latency.interval()[1],
        latency.interval()[1] / reference_latency.interval()[0],
    )
    here = (timing.ratio_interval[1] - timing.ratio_interval[0]) / 2
    width = math.hypot((high - low) / 2, here)  # half-width for the difference of two independent ratios
    allowed = max(width, RATIO_TOLERANCE * claimed)
    rule = f"within {allowed / claimed:.1%}: the intervals, at least {RATIO_TOLERANCE:.0%}"
    holds = abs(timing.ratio - claimed) <= allowed
    measured = f"{timing.ratio:.3f}" + ("" if timing.verdict == "ok" else f" ({timing.verdict})")
    return Claim(str(timing.job.path), "latency ratio", f"{claimed:.3f}", measured, holds, rule)
