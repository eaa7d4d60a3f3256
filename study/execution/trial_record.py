"""Phase 1: plan the trials of backbones and exit heads, train them by rungs, rank them.

What is left to do is always derived from the checkpoints, and the survivors of a rung are a pure function of their
learning curves: a study that was interrupted ends like one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from results.storage.paths import Location
from study.checkpoints.description import Checkpoint, WeightsId, read_description
from study.checkpoints.tensors import read
from study.execution.trial import read_trial
from study.execution.trial_plan import TrialPlan
from study.storage.publish import DamagedError, set_aside
from study.training.learning_curves import best_epoch, outcome

STOPPED = "stopped.json"


@dataclass(frozen=True)
class TrialRecord:
    """A trial after its phase."""

    plan: TrialPlan
    status: str
    """``finished``, ``stopped_early`` (patience), ``stopped_by_halving``, ``stopped_by_asha``, ``diverged``,
    ``failed``, ``pretrained``."""
    error: str | None
    checkpoint: Checkpoint | None
    """The description of its last checkpoint; None where it failed before the first epoch."""
    weights: WeightsId | None
    """The best weights: what a child trial or a trace is made from. None without any, and for
    a trial that was stopped by halving but has gone on once, when its rung held other trials, to a better epoch."""

    @property
    def score(self) -> float:
        """The best validation score; NaN without any, and for a trial that diverged."""
        history = self.checkpoint.history if self.checkpoint else ()
        return best_epoch(history).score if history and not history[-1].diverged else math.nan

    @property
    def usable(self) -> bool:
        """Whether something can be made from it."""
        return self.weights is not None and not math.isnan(self.score)


def rank_records(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Best score first; ties by trial id, trials without a score last."""
    return sorted(records, key=lambda r: (math.inf if math.isnan(r.score) else -r.score, r.plan.trial_id))


def status_of(plan: TrialPlan, checkpoints: Location, epochs: int) -> str:
    """``waiting``, ``running``, ``stopped_by_asha`` or the outcome of the trial at this budget."""
    checkpoint = read_trial(plan, checkpoints)
    if checkpoint is None:
        return "waiting"
    status = outcome(checkpoint.history, epochs=epochs, patience=plan.training.patience)
    stopped = checkpoints / plan.trial_id / STOPPED
    return "stopped_by_asha" if status == "running" and stopped.exists() else status


def set_aside_if_damaged(record: TrialRecord, checkpoints: Location) -> bool:
    """Read a trial's best weights in full; whether they were damaged, and the trial was set aside."""
    folder = checkpoints / record.plan.trial_id
    try:
        read(folder / "best")
    except DamagedError as error:
        set_aside(folder, str(error))
        return True
    return False


def make_record(plan: TrialPlan, status: str, checkpoints: Location, error: str | None = None) -> TrialRecord:
    """The record of a trial as its checkpoints stand."""
    best = read_description(checkpoints / plan.trial_id / "best")
    weights = WeightsId(plan.trial_id, best.weights_hash) if best else None
    return TrialRecord(plan, status, error, read_trial(plan, checkpoints), weights)
