"""Accuracy forward: how often the prediction engine predicts the exit at which the hierarchical walk stops.

The samples are those that do not stop at L_0. For each sample, the predicted jump is compared with the true distance:
the number of exits from L_0 to the exit where the hierarchical walk from L_0 stops (E + 1 - L_0 if no exit stops the
sample). A prediction of K_max is right if the true distance is K_max or more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from study.arrays import Integers
from study.policies.decision_table import ratio_table
from study.policies.engine import predicted_jumps
from study.policies.policies import Hierarchical, Predictive
from study.policies.replay import replay
from study.traces.trace import Trace


def prediction_confusion(trace: Trace, beta: float, start_layer: int, max_jump: int = 8) -> Integers:
    """Samples by predicted and true distance.

    Returns:
        ``[K_max, K_max]``: predicted distances (rows) and true distances (columns) from 1. The last column holds true
        distances of K_max or more.

    Raises:
        UserError: the trace has no such exit, or beta is not above 0.
    """
    Predictive(beta, start_layer, max_jump).first_exit(trace.exit_count)
    table = ratio_table(trace, max_jump)
    asked = np.flatnonzero(table.stop[:, start_layer - 1] < beta)
    confusion = np.zeros((max_jump, max_jump), dtype=np.int64)
    predicted = predicted_jumps(table.jump[asked, start_layer - 1], beta)
    true = replay(trace, Hierarchical(beta, start_layer)).exit_index[asked] - start_layer
    np.add.at(confusion, (predicted - 1, np.minimum(true, max_jump) - 1), 1)
    return confusion


def prediction_accuracy(trace: Trace, beta: float, start_layer: int, max_jump: int = 8) -> tuple[float, int]:
    """Share of right predictions at one beta and start layer.

    Returns:
        ``(share right, number of predictions)``; the share is NaN without predictions.
    """
    row = prediction_accuracies(trace, [beta], [start_layer], max_jump).iloc[0]
    return float(row["accuracy"]), int(row["predictions"])


def prediction_accuracies(
    trace: Trace, betas: Sequence[float], start_layers: Sequence[int] | None = None, max_jump: int = 8
) -> pd.DataFrame:
    """:func:`prediction_accuracy` for each beta and start layer (all exits but the last by default).

    Returns:
        Columns beta, start_layer, predictions, accuracy (NaN without predictions), too_short (share of predictions
        below the true distance: heads run in vain) and too_long (share above it: segments run in vain).
    """
    layers = range(1, max(2, trace.exit_count)) if start_layers is None else start_layers
    rows = []
    for beta in betas:
        for layer in layers:
            confusion = prediction_confusion(trace, beta, layer, max_jump)
            count = int(confusion.sum())
            kinds = [np.trace(confusion), np.triu(confusion, 1).sum(), np.tril(confusion, -1).sum()]
            rows.append((beta, layer, count, *(float(kind / count) if count else np.nan for kind in kinds)))
    return pd.DataFrame(rows, columns=["beta", "start_layer", "predictions", "accuracy", "too_short", "too_long"])
