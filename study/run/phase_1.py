"""Phase 1 by rungs: decide which trials are trained next, train and rank them, and write their tables.

The user's own weights may take the place of the backbones.

The decision is a pure function of learning curves, and the learning curves are read from checkpoints. Therefore an
interrupted phase ends like an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from results.parts import write_part
from results.schemas import SCHEMAS
from results.storage.atomic import write_atomic
from results.storage.paths import Location
from search_spaces.spec import TrainingSpec
from study.checkpoints.description import Checkpoint, WeightsId
from study.checkpoints.tensors import save, weights_fingerprint
from study.execution.executor import Executor, TrainingContext
from study.execution.trial import read_trial
from study.execution.trial_plan import TrialPlan
from study.execution.trial_record import STOPPED, TrialRecord, make_record, rank_records, status_of
from study.networks.construction import new_network
from study.networks.multi_exit import load_backbone_weights
from study.run.folder import Provenance
from study.run.trials import rungs
from study.storage.publish import set_aside
from study.storage.strict_json import dumps
from study.training.learning_curves import Epoch, best_epoch, outcome
from study.training.loop import TrainingState, evaluate_split


def survivors(histories: Mapping[str, Sequence[Epoch]], budget: int, reduction: int, *, keep: int = 1) -> list[str]:
    """The best 1/``reduction`` of the trials (rounded up) by their best score within ``budget`` epochs.

    Args:
        histories: trial id -> learning curve. Trials without a curve and trials that diverged rank last.
        budget: epochs of the rung; later epochs of a trial do not count.
        reduction: the factor by which the number of trials falls.
        keep: the number of trials that the next step of the study needs; at least this many survive.

    Returns:
        Trial ids, best first; ties are broken by trial id.
    """

    def rank(identity: str) -> tuple[float, str]:
        history = [row for row in histories[identity] if row.epoch <= budget]
        score = best_epoch(history).score if history and not history[-1].diverged else math.nan
        return (math.inf if math.isnan(score) else -score, identity)

    return sorted(histories, key=rank)[: max(math.ceil(len(histories) / reduction), keep)]


@dataclass(frozen=True)
class Decision:
    """What a phase does next."""

    rung: int
    """1-based number of the rung that is trained."""
    train: tuple[TrialPlan, ...]
    """The trials that are short of the budget of the rung; empty where the phase is over."""
    halved: Mapping[str, int]
    """Trial id -> budget of the rung that the trial did not survive."""


def decide(
    plans: Sequence[TrialPlan],
    histories: Mapping[str, Sequence[Epoch]],
    section: TrainingSpec,
    *,
    failed: Mapping[str, int],
    stopped: AbstractSet[str] = frozenset(),
    keep: int = 1,
) -> Decision:
    """Decide which trials are trained next: those of the lowest rung that is not finished.

    Args:
        plans, section: the trials of the phase; epochs and scheduler.
        histories: trial id -> learning curve, empty before the first epoch.
        failed: trial id -> number of the rung at which the trial failed; the trial took part in the rungs before.
        stopped: the trials that ASHA stopped.
        keep: the number of trials that the next step of the study needs.
    """
    alive, halved = list(plans), dict[str, int]()
    budgets = rungs(section)
    for rung, budget in enumerate(budgets, start=1):
        alive = [plan for plan in alive if failed.get(plan.trial_id, math.inf) > rung]
        short = [plan for plan in alive if plan.trial_id not in stopped and _is_short(plan, histories, budget)]
        if short:
            return Decision(rung, tuple(short), halved)
        if rung < len(budgets):
            curves = {plan.trial_id: histories[plan.trial_id] for plan in alive}
            kept = set(survivors(curves, budget, section.scheduler.reduction, keep=keep))
            halved |= dict.fromkeys(set(curves) - kept, budget)
            alive = [plan for plan in alive if plan.trial_id in kept]
    return Decision(len(budgets), (), halved)


def _is_short(plan: TrialPlan, histories: Mapping[str, Sequence[Epoch]], budget: int) -> bool:
    return outcome(histories[plan.trial_id], epochs=budget, patience=plan.training.patience) == "running"


def run_phase(
    plans: Sequence[TrialPlan],
    section: TrainingSpec,
    context: TrainingContext,
    executor: Executor,
    *,
    keep: int = 1,
) -> list[TrialRecord]:
    """Train the trials of a phase that are not trained yet.

    ``keep`` is the number of trials that the next step of the study needs; halving leaves at least this many.

    Returns:
        A record of each trial, best score first (ties by trial id; trials without a score last).
    """
    while True:
        errors, halved = _train_rungs(plans, section, context, executor, keep=keep)
        records = rank_records(
            [_record(plan, section, context.checkpoints, errors, halved.get(plan.trial_id)) for plan in plans]
        )
        # Where all survivors of a rung diverged, the phase needs a trial that was halved. The best weights of that
        # trial may be of a later epoch, which is no part of this study: then the trial is trained anew.
        gone_on = [record for record in records[:keep] if record.weights is None and not math.isnan(record.score)]
        for record in gone_on:
            identity = record.plan.trial_id
            set_aside(context.checkpoints / identity, f"trial {identity} went on past its rung")
        if not gone_on:
            return records


def _train_rungs(
    plans: Sequence[TrialPlan], section: TrainingSpec, context: TrainingContext, executor: Executor, *, keep: int
) -> tuple[dict[str, str], Mapping[str, int]]:
    """Train what :func:`decide` names, until nothing is left.

    Returns: trial id -> error, of failed trials; trial id -> budget of the rung that a trial did not survive.
    """
    errors: dict[str, str] = {}
    failed: dict[str, int] = {}
    while True:
        histories = {plan.trial_id: _history(plan, context.checkpoints) for plan in plans}
        asha = section.scheduler.kind == "asha"
        stopped = {one for one in histories if asha and (context.checkpoints / one / STOPPED).exists()}
        decision = decide(plans, histories, section, failed=failed, stopped=stopped, keep=keep)
        if not decision.train:
            return errors, decision.halved
        new = _train(decision, section, context, executor)
        errors |= new
        failed |= dict.fromkeys(new, decision.rung)


def _train(decision: Decision, section: TrainingSpec, context: TrainingContext, executor: Executor) -> dict[str, str]:
    """Train the trials of a decision; returns the errors of the trials that failed for good.

    A trial whose workers died is given up only if the trial has not advanced meanwhile. On machines that come and go
    every trial loses workers, and a study without the trial would be another study.
    """
    budgets = rungs(section)
    budget, phase = budgets[decision.rung - 1], decision.train[0].phase
    name = phase if len(budgets) == 1 else f"{phase}, rung {decision.rung}/{len(budgets)}"
    asha = section.scheduler if section.scheduler.kind == "asha" else None
    tell = context.reporter.line
    errors: dict[str, str] = {}
    left = list(decision.train)
    while left:
        before = {plan.trial_id: len(_history(plan, context.checkpoints)) for plan in left}
        failures = executor.train(left, budget, context, name=name, asha=asha)
        again = []
        for plan in left:
            identity, failure = plan.trial_id, failures.get(plan.trial_id)
            history = _history(plan, context.checkpoints)
            if failure is not None and failure.worker_died and len(history) > before[identity]:
                again.append(plan)
            elif failure is not None:
                errors[identity] = failure.error
                tell(f"{name}: trial {identity} failed, and the study goes on without it: {failure.error}")
            elif outcome(history, epochs=budget, patience=plan.training.patience) == "running":
                if asha and history:
                    # A verdict of ASHA is no function of the curves: it is written down for later starts.
                    write_atomic(context.checkpoints / identity / STOPPED, b'{"by": "asha"}\n')
                else:
                    errors[identity] = "ended without an error, but short of its epochs"
        left = again
        if left:
            tell(f"{name}: workers of {len(left)} trials died; the trials resume from their last epochs")
    return errors


def _record(
    plan: TrialPlan, section: TrainingSpec, checkpoints: Location, errors: Mapping[str, str], budget: int | None
) -> TrialRecord:
    """The record of a trial after the phase; ``budget`` is that of the rung that the trial did not survive."""
    if plan.trial_id in errors:
        return make_record(plan, "failed", checkpoints, errors[plan.trial_id])
    if budget is not None:
        return _halved_record(plan, budget, checkpoints)
    return make_record(plan, status_of(plan, checkpoints, section.epochs), checkpoints)


def _halved_record(plan: TrialPlan, budget: int, checkpoints: Location) -> TrialRecord:
    """The record of a trial that did not survive a rung, as the trial stood at the rung.

    The trial may have gone on in an earlier start: when the study was smaller, or while a better trial had failed. The
    later epochs are no part of this study.
    """
    record = make_record(plan, "stopped_by_halving", checkpoints)
    assert record.checkpoint is not None, "the trial has passed the rung"
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


def _history(plan: TrialPlan, checkpoints: Location) -> tuple[Epoch, ...]:
    checkpoint = read_trial(plan, checkpoints)
    return checkpoint.history if checkpoint else ()


def adopt_pretrained(tensors: Mapping[str, Tensor], plan: TrialPlan, context: TrainingContext) -> TrialRecord:
    """The user's own backbone as the one trial of phase 1a, with its validation accuracy."""
    info = context.dataset.info
    plan = replace(plan, parent=WeightsId("weights", weights_fingerprint(tensors)))
    folder = context.checkpoints / plan.trial_id
    if read_trial(plan, context.checkpoints) is None:
        network = new_network(plan.network, info, plan.training.seed)
        load_backbone_weights(network, tensors)
        result = evaluate_split(network, context.dataset.validation, info, plan.training)
        row = Epoch(
            epoch=0,
            learning_rate=0.0,
            train_loss=math.nan,
            validation_loss=result.loss,
            classifier_accuracy=result.accuracies[-1],
            classifier_balanced_accuracy=result.balanced_accuracy,
            exit_accuracies=(),
            score=result.accuracies[-1],
            seconds=0.0,
        )
        save(
            folder,
            network,
            TrainingState((row,), {}),
            settings=plan.network,
            training=plan.training,
            info=info,
            parent=plan.parent,
        )
    return make_record(plan, "pretrained", context.checkpoints)


def write_trials(
    tables: Location, records: Sequence[TrialRecord], provenance: Provenance, *, data: str, part: int | str = 0
) -> None:
    """Write a part of the tables ``trials`` and ``epochs``, best trials first, and the rows of ``provenance``."""
    ranked = rank_records(records)
    checkpoints = [record.checkpoint for record in ranked if record.checkpoint]
    distinct = {dumps(dict(made_by)): made_by for checkpoint in checkpoints for _, made_by in checkpoint.made_by}
    provenance.record(tables, distinct.values())
    write_part(tables, "trials", [_trial_row(record, provenance, data) for record in ranked], part)
    write_part(tables, "epochs", [row for record in ranked for row in _epoch_rows(record, provenance)], part)


def _trial_row(record: TrialRecord, provenance: Provenance, data: str) -> dict[str, Any]:
    plan, checkpoint = record.plan, record.checkpoint
    row: dict[str, Any] = {
        "trial_id": plan.trial_id,
        "phase": plan.phase,
        "data": data,
        "parent": plan.parent,
        "status": record.status,
        "error": record.error,
        "backbone": plan.network.backbone,
        "width": plan.network.width,
        "head": plan.network.head.kind if plan.phase == "exits" else None,
        "mode": plan.training.mode,
        "settings": dumps({"network": asdict(plan.network), "training": asdict(plan.training)}),
        "seed": plan.training.seed,
        "data_digest": plan.data_digest,
        "checkpoint": f"checkpoints/{plan.trial_id}",
        "provenance": provenance.name(checkpoint.versions if checkpoint else None),
    }
    if checkpoint:
        best = best_epoch(checkpoint.history)
        machine = checkpoint.made_by[-1][1] if checkpoint.made_by else {}
        row |= {
            "device": machine.get("device"),
            "threads": int(machine["threads"]) if "threads" in machine else None,
            "epochs_done": checkpoint.history[-1].epoch,
            "best_epoch": best.epoch,
            "split": "validation",
            "score": best.score,
            "classifier_accuracy": best.classifier_accuracy,
            "classifier_balanced_accuracy": best.classifier_balanced_accuracy,
            "mean_exit_accuracy": sum(best.exit_accuracies) / len(best.exit_accuracies)
            if best.exit_accuracies
            else None,
            "seconds": sum(epoch.seconds for epoch in checkpoint.history),
            "weights_hash": record.weights.digest if record.weights else None,
            "code_version": checkpoint.versions["predictive-exit"],
        }
    return row


def _epoch_rows(record: TrialRecord, provenance: Provenance) -> list[dict[str, Any]]:
    names = set(SCHEMAS["epochs"].names)
    checkpoint = record.checkpoint
    if checkpoint is None:
        return []
    return [
        {
            "trial_id": record.plan.trial_id,
            "phase": record.plan.phase,
            "split": "validation",
            **{name: value for name, value in asdict(epoch).items() if name in names},
            "provenance": provenance.name(_versions_at(checkpoint, epoch.epoch)),
        }
        for epoch in checkpoint.history
    ]


def _versions_at(checkpoint: Checkpoint, epoch: int) -> Mapping[str, str]:
    earlier = [made_by for first, made_by in checkpoint.made_by if first <= epoch]
    return earlier[-1] if earlier else checkpoint.versions
