"""What the driver does with a trial's record: tell the study, update the counts, teach the stopping rule."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from harness.errors import TrialError
from harness.records import CONTINUES, WIDEST_FP32, TrialRecord, read_record, trial_folder, write_record
from harness.search import resume
from harness.search.counts import epochs_of
from harness.search.rungs import NEVER_STOPPED, Curve, as_costs
from harness.search.signals import Interrupted
from harness.search.state import Search

log = logging.getLogger(__name__)


def receive(run: Search, record: TrialRecord) -> None:
    """Tell the study a record, or queue it for the lab if the latency of its structure is not known yet."""
    folder = trial_folder(run.folder, record.number)
    if record.status == "ok" and run.rule.flagged(record.number):  # saved for the rule of a resumed study
        record = record.model_copy(update={"diagnostics": {**record.diagnostics, "flagged": True}})
        write_record(folder, record)
    if record.status == "failed":
        resume.write_failed(folder, record)
        tell(run, record)
    elif record.status == "stopped":
        known = run.trials.costs.get(record.number) or _continued(run, record)
        if known is not None:
            record = record.with_measurements(*known.measurements.values())
        write_record(folder, record)
        tell(run, record)
    elif "latency_ms" in record.measurements:
        tell(run, record)
    elif run.latencies.known(record) is not None:
        tell(run, run.latencies.complete(record, folder))
    else:
        run.lab_queue.add_trained(record, run.counts.told)


def _continued(run: Search, record: TrialRecord) -> TrialRecord | None:
    """The record of the stopped trial that this one continues. It has the costs, which a killed driver has lost."""
    before = record.diagnostics.get(CONTINUES)
    return None if before is None else read_record(trial_folder(run.folder, before))


def receive_cost(run: Search, record: TrialRecord) -> None:
    """Decide what a recipe of known structure and size does next: train, or wait for the lab. If it already breaks a
    constraint, it is told without training."""
    full = run.latencies.known(record)
    if full is None and run.needs_latency:
        run.lab_queue.add_untrained(record, run.counts.told)
        return
    full = full or record
    run.trials.set_costs(full)
    broken = run.study.broken(full)
    if broken and not run.trials.open[record.number].baseline:  # the report shows every baseline, feasible or not
        full.file(trial_folder(run.folder, record.number)).unlink(missing_ok=True)
        receive(run, full.model_copy(update={"status": "stopped", "reason": f"infeasible: {broken}", "artifact": None}))
        return
    run.trials.make_ready(record.number)


def measure(run: Search) -> None:
    """Measure the waiting files at a barrier. No slot is busy, so nothing else disturbs the timing."""
    trained, untrained = run.lab_queue.take()
    try:
        with run.stop.twice_ends():
            run.latencies.measure([*trained, *untrained], run.folder)
    except Interrupted:
        run.lab_queue.put_back(trained, untrained)
        return
    except TrialError as error:
        log.warning("%s: measuring file by file", error)
        trained = [r for r in trained if _measured_alone(run, r, final=True)]
        untrained = [r for r in untrained if _measured_alone(run, r, final=False)]
    for record in trained:
        tell(run, run.latencies.complete(record, trial_folder(run.folder, record.number)))
    for record in untrained:
        receive_cost(run, record)
    if run.latencies.has_reference:
        run.latencies.teacher(run.space, run.folder)


def _measured_alone(run: Search, record: TrialRecord, final: bool) -> bool:
    """Measure one file on its own, so that a file that the runtime cannot run fails only its own trial.

    An untrained trial (``final`` False) trains nevertheless; it reports the error when it ends.
    """
    try:
        run.latencies.measure([record], run.folder)
    except TrialError as error:
        if final:
            receive(run, record.model_copy(update={"status": "failed", "reason": str(error)}))
        else:
            run.trials.make_ready(record.number)
        return False
    return True


def tell(run: Search, record: TrialRecord) -> None:
    """Tell the study a record and count it."""
    run.timeline.add(record.number, run.counts.epochs + epochs_of(record))
    feasible = run.study.tell(record)
    run.counts.told += 1
    run.trials.close(record.number)
    count(run, record, feasible)
    on_front = record.number in run.results.front.numbers
    run.progress.trial(record, on_front)
    run.tracking.trial(record, on_front)


def count(run: Search, record: TrialRecord, feasible: bool) -> None:
    """Update the counts, the rule and the results with a told record."""
    run.counts.add(record)
    continues = record.diagnostics.get(CONTINUES)
    if continues is not None:
        run.rule.resume(continues)  # the rule of a resumed study still has it among the stopped trials
    if record.status == "failed":
        return
    learn(run, record, feasible)
    if record.status == "stopped":
        return
    if record.baseline == WIDEST_FP32:
        run.latencies.use_reference(record, record.file(trial_folder(run.folder, record.number)))
    run.results.add(record, run.space.objectives, feasible)


def learn(run: Search, record: TrialRecord, feasible: bool) -> None:
    """Pass a trial's curve, costs and final accuracy to the rule."""
    known = run.rule.rungs(int(record.recipe["train"]["epochs"]))
    taken = {int(epoch): found for epoch, found in record.diagnostics.get("rungs", {}).items()}
    curve = replace(
        curve_of(run, record.params, record.baseline, costs_of(run, record)),
        exempt=1.0 if record.baseline else NEVER_STOPPED,
        rungs={known[epoch]: found for epoch, found in taken.items() if epoch in known},
        flagged=bool(record.diagnostics.get("flagged")),
    )
    run.rule.learn(record.number, curve, record.value("accuracy"), feasible)


def curve_of(run: Search, params: dict[str, Any], baseline: str, costs: tuple[float, ...] | None) -> Curve:
    """The curve of a trial that has not trained. ``places`` is None for a baseline that the space cannot express;
    such a baseline has no parameters."""
    return Curve(costs, places=None if baseline and run.space.holes and not params else run.space.places(params))


def costs_of(run: Search, record: TrialRecord) -> tuple[float, ...] | None:
    """The objectives other than accuracy as losses; None if one is unknown."""
    signs = {"minimize": 1.0, "maximize": -1.0}
    others = [(signs[o.direction], record.value(o.name)) for o in run.space.objectives if o.name != "accuracy"]
    return as_costs([None if value is None else sign * value for sign, value in others])
