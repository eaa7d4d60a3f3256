"""Statistics of each layer: who stops at an exit, how right they are, how right the exit is on all samples."""

from __future__ import annotations

import numpy as np
import pandas as pd

from study.costs.profile import Costs
from study.trace import Trace
from study.walks import Walk


def exit_statistics(trace: Trace, walk: Walk, costs: Costs) -> pd.DataFrame:
    """Statistics of each layer: one row for each exit and for the classifier (the last).

    Returns:
        Columns exit, share_stopped, accuracy_stopped (of the samples that stop there; NaN without any),
        accuracy_all (of the exit on all samples), threshold (NaN for the classifier) and cumulative_flops (the
        network cut there: its segments and its one head).
    """
    exits = np.arange(1, trace.exit_count + 2)
    stopped = walk.exit_index[:, None] == exits
    right = walk.predictions == trace.labels
    segments, heads, _ = costs.parts("flops")
    with np.errstate(invalid="ignore"):
        accuracy_stopped = (stopped & right[:, None]).sum(axis=0) / stopped.sum(axis=0)
    return pd.DataFrame(
        {
            "exit": exits,
            "share_stopped": stopped.mean(axis=0),
            "accuracy_stopped": accuracy_stopped,
            "accuracy_all": (trace.answers == trace.labels[:, None]).mean(axis=0),
            "threshold": np.append(trace.thresholds, np.nan),
            "cumulative_flops": segments.cumsum() + np.append(heads, 0.0),
        }
    )
