"""Learning curves: what each epoch of a training run gave, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from study.storage.strict_json import from_fields


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One row of a learning curve. ``score`` is what phase 1 ranks by and early stopping watches."""

    epoch: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    classifier_accuracy: float
    exit_accuracies: tuple[float, ...]
    """``[E]`` on the validation split; empty in the modes that leave the heads idle."""
    score: float
    seconds: float

    @property
    def diverged(self) -> bool:
        """Whether the weights are ruined: a loss was not finite, and so there is no score."""
        return math.isnan(self.score)


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The epoch with the highest score; the first of equals. A diverged epoch (NaN) is never better."""
    return max(history, key=lambda row: (-math.inf if math.isnan(row.score) else row.score, -row.epoch))


def outcome(history: Sequence[Epoch], *, epochs: int, patience: int | None) -> str:
    """``running``, or why a run with this history is over: ``finished``, ``stopped_early``, ``diverged``."""
    if history and history[-1].diverged:
        return "diverged"
    if len(history) >= epochs:
        return "finished"
    waited = history[-1].epoch - best_epoch(history).epoch if history else 0
    if patience is not None and history and waited >= patience:
        return "stopped_early"
    return "running"


def history_to_json(history: Sequence[Epoch]) -> list[dict[str, object]]:
    """A history as JSON-able rows; a number that is not finite becomes None."""
    return [{key: _none_for_nan(value) for key, value in asdict(row).items()} for row in history]


def history_from_json(rows: Sequence[Mapping[str, Any]]) -> tuple[Epoch, ...]:
    """The inverse of :func:`history_to_json`.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: these are no such rows.
    """
    history = []
    for row in rows:
        values: dict[str, Any] = {key: math.nan if value is None else value for key, value in row.items()}
        values["exit_accuracies"] = tuple(values["exit_accuracies"])
        history.append(from_fields(Epoch, values))
    return tuple(history)


def _none_for_nan(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
