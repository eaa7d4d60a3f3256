"""The record of a trial after its phase: status, checkpoint, weights, rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from results.storage.paths import Location
from study.checkpoints.description import Checkpoint, WeightsId, read_description
from study.checkpoints.tensors import read
from study.execution.trial import read_trial
from study.execution.trial_plan import TrialPlan
from study.storage.publish import DamagedError, set_aside
from study.training.learning_curves import best_epoch, outcome

STOPPED = "stopped.json"
TrialStatus: TypeAlias = Literal[
    "waiting", "running", "finished", "stopped_early", "stopped_by_halving", "stopped_by_asha", "diverged", "failed",
    "pretrained",
]  # fmt: skip
"""``stopped_early`` by patience; ``waiting`` and ``running`` occur only before the end of a phase."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial after its phase."""

    plan: TrialPlan
    status: TrialStatus
    error: str | None
    checkpoint: Checkpoint | None
    """The description of the last checkpoint; None where the trial failed before the first epoch."""
    weights: WeightsId | None
    """The best weights, from which a child trial or a trace is made.

    None where there are no weights. None also for a trial that halving stopped and whose best weights are of a later
    epoch: the trial went on in an earlier start, whose rung held other trials.
    """

    @property
    def score(self) -> float:
        """The best validation score; NaN without any, and for a trial that diverged."""
        history = self.checkpoint.history if self.checkpoint else ()
        return best_epoch(history).score if history and not history[-1].diverged else math.nan

    @property
    def usable(self) -> bool:
        """Whether child trials and traces can be made from the trial."""
        return self.weights is not None and not math.isnan(self.score)


def rank_records(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Best score first; ties by trial id, trials without a score last."""
    return sorted(records, key=lambda r: (math.inf if math.isnan(r.score) else -r.score, r.plan.trial_id))


def status_of(plan: TrialPlan, checkpoints: Location, epochs: int) -> TrialStatus:
    """``waiting``, ``running``, ``stopped_by_asha`` or the outcome of the trial at this budget."""
    checkpoint = read_trial(plan, checkpoints)
    if checkpoint is None:
        return "waiting"
    status = outcome(checkpoint.history, epochs=epochs, patience=plan.training.patience)
    stopped = checkpoints / plan.trial_id / STOPPED
    return "stopped_by_asha" if status == "running" and stopped.exists() else status


def set_aside_if_damaged(record: TrialRecord, checkpoints: Location) -> bool:
    """Read the best weights of a trial in full. Damaged weights: the trial is set aside, and the result is true."""
    folder = checkpoints / record.plan.trial_id
    try:
        read(folder / "best")
    except DamagedError as error:
        set_aside(folder, str(error))
        return True
    return False


def make_record(plan: TrialPlan, status: TrialStatus, checkpoints: Location, error: str | None = None) -> TrialRecord:
    """The record of a trial, from its checkpoints."""
    best = read_description(checkpoints / plan.trial_id / "best")
    weights = WeightsId(plan.trial_id, best.weights_hash) if best else None
    return TrialRecord(plan, status, error, read_trial(plan, checkpoints), weights)
