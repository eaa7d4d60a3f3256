"""Statistics of each layer: how many samples stop at an exit, their accuracy, the exit's accuracy on all samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.costs.costs import Costs
from study.policies.replay import Walk
from study.traces.trace import Trace


def exit_statistics(trace: Trace, walk: Walk, costs: Costs) -> pd.DataFrame:
    """Statistics of each layer: one row for each exit and for the classifier (the last).

    Returns:
        Columns exit, share_stopped, accuracy_stopped (of the samples that stop at the exit; NaN if no sample stops),
        accuracy_all (of the exit on all samples), balanced_accuracy_all (the same as mean over the classes), threshold
        (NaN for the classifier) and cumulative_flops (of the network cut at the exit: all segments up to the exit, and
        the exit's head).
    """
    return pd.DataFrame(exit_columns(trace, walk, costs))


def exit_columns(trace: Trace, walk: Walk, costs: Costs) -> dict[str, NDArray[Any]]:
    """The columns of :func:`exit_statistics`, ``[E+1]`` each, for callers that would make thousands of frames."""
    columns = trace.exit_count + 1
    stopped = np.bincount(walk.exit_index - 1, minlength=columns)
    right = np.bincount(walk.exit_index - 1, weights=walk.predictions == trace.labels, minlength=columns)
    with np.errstate(invalid="ignore"):
        accuracy_stopped = right / stopped
    return {
        "exit": np.arange(1, columns + 1),
        "share_stopped": stopped / len(trace.labels),
        "accuracy_stopped": accuracy_stopped,
        "accuracy_all": trace.exit_accuracies,
        "balanced_accuracy_all": trace.balanced_accuracies,
        "threshold": np.append(trace.thresholds, np.nan),
        "cumulative_flops": costs.of_cuts("flops"),
    }
