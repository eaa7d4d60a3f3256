"""Phase 1: plan the trials of backbones and exit heads, train them by rungs, rank them.

What is left to do is always derived from the checkpoints, and the survivors of a rung are a pure function of their
learning curves: a study that was interrupted ends like one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from results.storage.atomic import write_atomic
from results.storage.paths import Location
from search_spaces.spec import SchedulerSpec, TrainingSpec
from study.execution.executor import Executor, TrainingContext
from study.execution.trial import read_trial
from study.execution.trial_plan import TrialPlan
from study.execution.trial_record import STOPPED, TrialRecord, make_record, rank_records, status_of
from study.run.plan import rungs
from study.storage.publish import set_aside
from study.training.learning_curves import Epoch, best_epoch, outcome


def survivors(histories: Mapping[str, Sequence[Epoch]], budget: int, reduction: int, *, keep: int = 1) -> list[str]:
    """The best 1/``reduction`` of the trials (rounded up) by their best score within ``budget`` epochs.

    Args:
        histories: trial id -> learning curve. Trials that have none or that diverged rank last.
        budget: epochs of the rung; what a trial did later does not count.
        reduction: how many times fewer trials go on.
        keep: but at least so many: what comes after the phase needs them.

    Returns:
        Trial ids, best first; ties are broken by trial id.
    """

    def rank(identity: str) -> tuple[float, str]:
        history = [row for row in histories[identity] if row.epoch <= budget]
        score = best_epoch(history).score if history and not history[-1].diverged else math.nan
        return (math.inf if math.isnan(score) else -score, identity)

    return sorted(histories, key=rank)[: max(math.ceil(len(histories) / reduction), keep)]


def run_phase(
    plans: Sequence[TrialPlan],
    section: TrainingSpec,
    context: TrainingContext,
    executor: Executor,
    *,
    keep: int = 1,
) -> list[TrialRecord]:
    """Train the trials of a phase, as far as they are not trained yet.

    Args:
        plans: the trials.
        section: epochs and scheduler.
        context: the images and the run folder.
        executor: trains the trials.
        keep: how many trials the next step needs: halving leaves at least so many.

    Returns:
        A record of each, best score first (ties by trial id; trials without a score last).
    """
    errors: dict[str, str] = {}
    alive = list(plans)
    halved: dict[str, int] = {}
    """Trial id -> epochs of the rung that it did not survive."""
    budgets = rungs(section)
    asha = section.scheduler if section.scheduler.kind == "asha" else None
    for number, budget in enumerate(budgets, start=1):
        missing = [plan for plan in alive if status_of(plan, context.checkpoints, budget) in ("waiting", "running")]
        if missing:
            phase = missing[0].phase
            name = phase if len(budgets) == 1 else f"{phase}, rung {number}/{len(budgets)}"
            errors |= _train(missing, budget, context, executor, name=name, asha=asha)
            if asha:
                _mark_stopped(missing, budget, context.checkpoints, errors)
            for plan in missing:
                if status_of(plan, context.checkpoints, budget) in ("waiting", "running"):
                    errors.setdefault(plan.trial_id, "ended without an error, but short of its epochs")
        alive = [plan for plan in alive if plan.trial_id not in errors]
        if number < len(budgets):
            histories = {plan.trial_id: _history(plan, context.checkpoints) for plan in alive}
            kept = set(survivors(histories, budget, section.scheduler.reduction, keep=keep))
            halved |= dict.fromkeys(set(histories) - kept, budget)
            alive = [plan for plan in alive if plan.trial_id in kept]
    records = []
    for plan in plans:
        if plan.trial_id in halved and plan.trial_id not in errors:
            records.append(_halved_record(plan, halved[plan.trial_id], context.checkpoints))
            continue
        status = "failed" if plan.trial_id in errors else status_of(plan, context.checkpoints, section.epochs)
        records.append(make_record(plan, status, context.checkpoints, errors.get(plan.trial_id)))
    records = rank_records(records)
    wanted = [record for record in records[:keep] if record.weights is None and not math.isnan(record.score)]
    if wanted:  # all that survived it diverged
        for record in wanted:
            set_aside(context.checkpoints / record.plan.trial_id, f"trial {record.plan.trial_id} went on past its rung")
        return run_phase(plans, section, context, executor, keep=keep)
    return records


def _halved_record(plan: TrialPlan, budget: int, checkpoints: Location) -> TrialRecord:
    """The record of a trial that did not survive a rung, as it stood then.

    It may have gone on once: when the study was smaller, or while a better trial had failed. What it reached then is no
    part of this study, which ends like one that was never smaller and in which nothing ever failed.
    """
    record = make_record(plan, "stopped_by_halving", checkpoints)
    assert record.checkpoint is not None, "it has passed the rung"
    whole = record.checkpoint.history
    history = tuple(row for row in whole if row.epoch <= budget)
    status = outcome(history, epochs=budget + 1, patience=plan.training.patience)
    made_by = tuple((first, versions) for first, versions in record.checkpoint.made_by if first <= budget)
    versions = made_by[-1][1] if made_by else record.checkpoint.versions
    return replace(
        record,
        status="stopped_by_halving" if status == "running" else status,
        checkpoint=replace(record.checkpoint, history=history, made_by=made_by, versions=versions),
        weights=record.weights if best_epoch(whole) is best_epoch(history) else None,
    )


def _train(
    plans: Sequence[TrialPlan],
    budget: int,
    context: TrainingContext,
    executor: Executor,
    *,
    name: str,
    asha: SchedulerSpec | None,
) -> dict[str, str]:
    """Train trials up to a budget; returns the errors of those that failed for good.

    A trial whose workers died again and again is given up only if it did not come forward meanwhile: on machines that
    come and go every trial loses workers, and a study without it would not be the same study.
    """
    errors: dict[str, str] = {}
    left = list(plans)
    while left:
        before = {plan.trial_id: _epochs_done(plan, context.checkpoints) for plan in left}
        failures = executor.train(left, budget, context, name=name, asha=asha)
        failed = [plan for plan in left if plan.trial_id in failures]
        left = [
            plan
            for plan in failed
            if failures[plan.trial_id].worker_died and _epochs_done(plan, context.checkpoints) > before[plan.trial_id]
        ]
        lost = {plan.trial_id: failures[plan.trial_id].error for plan in failed if plan not in left}
        for identity, error in lost.items():
            context.reporter.line(f"{name}: trial {identity} failed, and the study goes on without it: {error}")
        errors |= lost
        if left:
            context.reporter.line(f"{name}: workers of {len(left)} trials died; they go on from their last epochs")
    return errors


def _epochs_done(plan: TrialPlan, checkpoints: Location) -> int:
    return len(_history(plan, checkpoints))


def _mark_stopped(plans: Sequence[TrialPlan], epochs: int, checkpoints: Location, errors: Mapping[str, str]) -> None:
    """ASHA's verdicts are not a function of the curves: they are written down, so that a later start knows them."""
    for plan in plans:
        if plan.trial_id not in errors and status_of(plan, checkpoints, epochs) == "running":
            write_atomic(checkpoints / plan.trial_id / STOPPED, b'{"by": "asha"}\n')


def _history(plan: TrialPlan, checkpoints: Location) -> tuple[Epoch, ...]:
    checkpoint = read_trial(plan, checkpoints)
    return checkpoint.history if checkpoint else ()
