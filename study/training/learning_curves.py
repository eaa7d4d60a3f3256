"""Learning curves: losses and accuracies of each epoch of a training run, the best epoch, and the end of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from study.storage.strict_json import from_fields


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One row of a learning curve. Phase 1 ranks by ``score``, and early stopping watches it."""

    epoch: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    classifier_accuracy: float
    exit_accuracies: tuple[float, ...]
    """``[E]`` on the validation split; empty in modes without heads."""
    score: float
    seconds: float
    classifier_balanced_accuracy: float = math.nan
    """Mean over the classes; NaN in checkpoints of before there was the number."""

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite: the weights are useless and the score is NaN."""
        return math.isnan(self.score)


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The epoch with the highest score; the first one of equal scores. A diverged epoch is never better."""
    return max(history, key=lambda row: (-math.inf if math.isnan(row.score) else row.score, -row.epoch))


Outcome: TypeAlias = Literal["running", "finished", "stopped_early", "diverged"]


def outcome(history: Sequence[Epoch], *, epochs: int, patience: int | None) -> Outcome:
    """``running``, or why a run with this history has ended: ``finished``, ``stopped_early`` or ``diverged``."""
    if history and history[-1].diverged:
        return "diverged"
    if len(history) >= epochs:
        return "finished"
    if patience is not None and history and history[-1].epoch - best_epoch(history).epoch >= patience:
        return "stopped_early"
    return "running"


def history_from_json(rows: Sequence[Mapping[str, Any]]) -> tuple[Epoch, ...]:
    """A history from the JSON of its rows, in which null stands for NaN.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: the rows are not those of a history.
    """
    history = []
    for row in rows:
        values: dict[str, Any] = {key: math.nan if value is None else value for key, value in row.items()}
        history.append(from_fields(Epoch, {**values, "exit_accuracies": tuple(values["exit_accuracies"])}))
    return tuple(history)
