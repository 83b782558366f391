"""The loop of a search: keep every slot busy, decide at rungs, measure latency while no slot is busy.

Size and latency follow from a recipe's structure, so they are known before training, from the untrained student. A
trial that breaks a constraint never trains. A trial that cannot reach the front at its size and latency stops at a
rung. Latency is measured at barriers: once enough new structures wait for the lab, the groups wait at their next rung
until no slot is busy.
"""

from __future__ import annotations

from dataclasses import replace

from harness.errors import DiskError
from harness.records import Artifact, Measurement, read_record, trial_folder
from harness.search.account import costs_of, curve_of, learn, measure, receive, receive_cost
from harness.search.jobs import Finished
from harness.search.rungs import NEVER_STOPPED, never_stopped
from harness.search.state import Search
from harness.search.study import Proposal
from harness.trial.job import Cost, TrialJob

WIDEST = 2  # the first baselines: the widest student in float32, and in int8


def work_through(run: Search) -> None:
    """Search trials until the search ends. Hold a barrier when enough new structures wait for the lab."""
    run.trials.baselines = _baselines_left(run)
    run.timeline.start()
    slots = 1
    while True:
        slots = max(slots, run.pool.free + len(run.pool.running))
        barrier = run.lab_queue.is_due(slots, run.counts.told, run.rule.often)
        if not barrier:
            _resume_held(run)
            _fill_slots(run)
        if not run.pool.running:
            if run.lab_queue.structures:
                measure(run)
            elif _without_workers(run):
                run.pool.wait(0.5)
            elif not run.trials.held and (not run.trials.ready or run.stop.asked):
                break
            if run.stop.now:
                break
            continue
        for answer in run.pool.wait(0.5 if run.trials.ahead or not run.wanted else 0.0):
            _collect(run, answer)
        if run.stop.now:
            break
        if run.wanted and not run.trials.ahead and not barrier:
            _ask_ahead(run)
        counts, results = run.counts, run.results
        run.progress.update(counts.finished, counts.failed, len(results.front.numbers), results.hypervolume)
    for number in run.trials.unbegun(run.lab_queue.trained):
        run.study.put_back(number)


def _without_workers(run: Search) -> bool:
    """Whether there is work but no worker is ready for it."""
    work = run.trials.ready or run.trials.ahead or run.wanted
    return bool(work) and not (run.pool.free or run.trials.held or run.stop.asked)


def _baselines_left(run: Search) -> list[int]:
    """Indices of the baselines without a result. A RUNNING one has a record and only waits for the lab."""
    done = {
        t.user_attrs.get("baseline_index")
        for t in run.study.trials()
        if (t.state.name in ("COMPLETE", "PRUNED", "RUNNING") or "final" in t.user_attrs)
        and t.number not in run.study.damaged
    }
    return [i for i in range(len(run.space.baselines())) if i not in done]


def _baseline_is_next(run: Search) -> bool:
    """Whether the next proposal is a baseline. Baselines come first.

    With a budget of seconds early points matter, so only the widest student's baselines come first. The other widths
    add little to the front: they take every second turn after those.
    """
    left = run.trials.baselines
    if not left:
        return False
    return run.budget.seconds is None or left[0] < WIDEST or not run.trials.was_baseline


def _ask_ahead(run: Search) -> None:
    """Propose a trial and, with lanes, others of the same structure that differ in numbers."""
    trials = run.trials
    trials.was_baseline = _baseline_is_next(run)
    if trials.was_baseline:
        trials.propose([run.study.baseline(trials.baselines.pop(0))])
        return
    proposals = run.study.propose(run.lanes)
    trials.propose(proposals)
    if not proposals:
        trials.exhausted = True
        run.progress.say("every recipe that the sampler proposes has run: the space is exhausted")


def _fill_slots(run: Search) -> None:
    trials = run.trials
    while run.pool.free and not run.stop.asked:
        if trials.ready and (len(trials.ready) >= run.lanes or not trials.ahead):
            _train(run)
            continue
        if run.closing and _resume_stopped(run):
            continue
        if not trials.ahead and run.wanted:
            _ask_ahead(run)
        if trials.ahead:
            _price(run, trials.ahead.pop(0))
        elif trials.ready:
            _train(run)
        else:
            return


def _price(run: Search, proposal: Proposal) -> None:
    """Have a worker compute the recipe's size and structure, if the search uses them and they are known before
    training. Otherwise the trial is ready to train."""
    recipe = proposal.recipe
    known = run.space.registries.pruners[recipe.prune.name].knows_structure(recipe.prune.options)
    if not run.prices or not known or recipe.deploy.format != "onnx":
        run.trials.make_ready(proposal.number)
        return
    run.trials.begin_pricing(proposal)
    run.pool.submit(proposal.number, "untrained", recipe, trial_folder(run.folder, proposal.number).resolve())


def _train(run: Search) -> None:
    """Start the first ready trial together with others of its structure."""
    group = run.trials.take_group(run.lanes)
    for p in group:
        lucky = NEVER_STOPPED * never_stopped(run.space.settings.seed, p.number)
        known = run.trials.costs.get(p.number)
        costs = None if known is None else costs_of(run, known)
        curve = curve_of(run, p.params, p.baseline, costs)
        run.rule.begin(p.number, replace(curve, exempt=1.0 if p.baseline else lucky))
    _submit(run, group)


def _resume_stopped(run: Search) -> bool:
    """Resume the most promising stopped trial that the rule would no longer stop. True if one was resumed.

    It continues in the slot that keeps its student, once that slot is idle. Without such a slot it trains from the
    start.
    """
    for number in run.rule.due():
        home = run.trials.slots.get(number)
        if home is not None and not run.pool.idle(home):
            continue
        stopped = read_record(trial_folder(run.folder, number))
        curve = run.rule.resume(number)
        if stopped is None or curve is None:
            continue
        if not run.counts.resumed:
            run.progress.say("stopped trials that may still enter the front are resumed, under new numbers")
        run.counts.resumed += 1
        proposal = run.study.continue_trial(stopped, kept=home is not None)
        run.trials.resume(proposal, stopped)
        run.rule.begin(proposal.number, curve)
        _submit(run, [proposal], slot=run.trials.slots.pop(number, None))
        return True
    return False


def _submit(run: Search, group: list[Proposal], slot: int | None = None) -> None:
    leader = group[0]
    run.trials.begin_group(group)
    jobs = [_job(run, p) for p in group]
    epochs = [epoch for epoch in run.rule.rungs(leader.recipe.train.epochs) if epoch > leader.reached]
    run.pool.submit(leader.number, "start", jobs, epochs, logits=True, trials=len(group), slot=slot)


def _job(run: Search, proposal: Proposal) -> TrialJob:
    folder, stopped = trial_folder(run.folder, proposal.number).resolve(), proposal.continues
    job = TrialJob(proposal.recipe, proposal.number, folder, proposal.params, proposal.baseline)
    if stopped is None:
        return job
    rungs = {int(epoch): found for epoch, found in stopped.diagnostics["rungs"].items()}
    return replace(job, continues=stopped.number, rungs=rungs)


def _resume_held(run: Search) -> None:
    """Decide which trials of the groups waiting at a rung stop, and let the groups continue."""
    for answer in run.trials.take_held():
        total = run.trials.leader(answer.job).recipe.train.epochs
        rungs, epoch, stops = run.rule.rungs(total), answer.value.epoch, {}
        for number, accuracy in answer.value.accuracy.items():
            reason = run.rule.decide(number, rungs[epoch], accuracy)
            if reason:
                stops[number] = f"after epoch {epoch} of {total}, {reason}"
        lanes = len(run.trials.groups[answer.job])
        run.pool.submit(answer.job, "go_on", stops, list(rungs), run.rule.resumes, trials=lanes)


def _collect(run: Search, answer: Finished) -> None:
    """Take a job's answer. If its worker died or was replaced, forget the students that the slot kept.

    Raises:
        DiskError: the worker could not write.
    """
    if isinstance(answer.exception, DiskError):
        raise answer.exception
    _receive(run, answer)
    if answer.error or answer.renewed:
        run.trials.lose_slot(answer.slot)


def _receive(run: Search, answer: Finished) -> None:
    trials = run.trials
    if answer.job in trials.pricing:
        _receive_price(run, answer)
        return
    if answer.error:
        for proposal in trials.end_group(answer.job):
            _lost(run, proposal, answer)
        return
    for record in answer.value.records:
        trials.end_trial(answer.job, record.number)
        if record.status == "stopped":
            trials.keep_student(record.number, answer.slot)
        receive(run, record)
    if answer.value.held:
        trials.hold(answer)
    else:
        trials.end_group(answer.job)


def _receive_price(run: Search, answer: Finished) -> None:
    proposal = run.trials.end_pricing(answer.job)
    if answer.error:
        run.trials.make_ready(proposal.number)  # training will report what is wrong
        return
    cost: Cost = answer.value
    file = Artifact(path=cost.file, format="onnx", sha256="", size_bytes=cost.size_bytes)
    priced = {"status": "ok", "baseline": "", "structure": cost.structure, "artifact": file}
    size = Measurement(name="size_bytes", unit="B", values=[float(cost.size_bytes)])
    receive_cost(run, _job(run, proposal).record().model_copy(update=priced).with_measurements(size))


def _lost(run: Search, proposal: Proposal, answer: Finished) -> None:
    """Settle a trial whose job returned no answer.

    Its record may nevertheless exist: written before the worker died, or while the driver was suspended. Otherwise the
    trial is tried again if its worker died and retries are left; else it fails.
    """
    record = read_record(trial_folder(run.folder, proposal.number))
    if record is not None:
        receive(run, record)
        return
    stopped = proposal.continues
    tried = proposal.number if stopped is None else stopped.number
    if answer.died and not run.stop.asked and run.trials.lose_worker(tried, run.space.settings.retries):
        if stopped is None:
            run.trials.retry(proposal)
        else:
            run.trials.close(proposal.number)
            run.study.fail(proposal.number, answer.error, final=False)
            learn(run, stopped, feasible=False)  # it counts as stopped again
        return
    receive(run, _job(run, proposal).record().model_copy(update={"reason": answer.error}))
