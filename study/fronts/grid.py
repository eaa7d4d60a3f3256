"""Many operating points of one network at once: a grid over beta, start layer, longest jump and overshoot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from study.arrays import Floats, Integers, share
from study.costs.costs import MEASURES, Costs
from study.errors import UserError
from study.fronts.sweep import Sweep
from study.policies.base import Policy
from study.policies.decision_table import table_for
from study.policies.policies import Hierarchical, Overshoot, Predictive
from study.traces.trace import Trace


def replay_grid(
    trace: Trace,
    costs: Costs,
    betas: Sequence[float],
    *,
    start_layers: Sequence[int] | None = None,
    max_jumps: Sequence[int] = (8,),
    overshoots: Sequence[Overshoot] = ("last_exit",),
) -> pd.DataFrame:
    """Accuracy and mean costs of every point of a grid, equal to the results of one :func:`study.replay` a point.

    For few betas, one pass from the last exit to the first gives all start layers of a beta. For many betas, one pass
    over the pieces of each sample (:mod:`study.fronts.kernels`) gives all betas; its time hardly grows with their
    number. The time is O(N E K_max min(B, E log B)) for each longest jump and overshoot.

    Args:
        trace: N samples.
        costs: of the network that made the trace.
        betas: B numbers above 0, in any order.
        start_layers: all exits by default.
        max_jumps: K_max of the engine; 0 is the hierarchical walk, which ignores the overshoot.
        overshoots: as in ``Predictive``.

    Returns:
        One row a point: beta, start_layer, max_jump, overshoot, accuracy and each measure that the costs hold.

    Raises:
        UserError: a value of the grid is impossible, or trace and costs do not belong together.
    """
    rising = np.unique(np.asarray(betas, dtype=np.float64))
    if not len(rising) or not (rising > 0).all():
        raise UserError(f"betas are {list(betas)}, but must be numbers above 0")
    for overshoot in overshoots:
        Predictive(1.0, overshoot=overshoot)  # refuses an unknown overshoot, even if no engine uses it
    if not (len(max_jumps) and len(overshoots)):
        raise UserError("the grid has no point: max_jumps and overshoots need at least one value each")
    measures = [measure for measure in MEASURES if costs.holds(measure)]
    parts = []
    for max_jump, overshoot in product(max_jumps, overshoots):
        rule: Policy = Predictive(1.0, 1, max_jump, overshoot) if max_jump else Hierarchical(1.0)
        sweep = Sweep(trace, costs, rule, start_layers)
        parts.append(_points(sweep, rising, measures).assign(max_jump=max_jump, overshoot=overshoot))
    return pd.concat(parts, ignore_index=True)[["beta", "start_layer", "max_jump", "overshoot", "accuracy", *measures]]


FEW = 64
"""Up to this number of betas, one pass for each beta is faster than one pass over the pieces of all betas."""


def _points(sweep: Sweep, betas: Floats, measures: Sequence[str]) -> pd.DataFrame:
    """The points of all start layers at rising betas ``[B]``."""
    from study.fronts.kernels import add_changes, add_each_beta

    trace, layers, policy = sweep.trace, np.asarray(sweep.start_layers), sweep.compiled
    costs, units = sweep.part_costs(measures)
    scores, few = table_for(trace, sweep.rule).scores, len(betas) <= FEW
    add = add_each_beta if few else add_changes

    def part(chunk: slice) -> Integers:
        sums = np.zeros((trace.exit_count + 2, len(betas), len(measures) + 1), dtype=np.int64)
        add(scores[chunk], trace.right[chunk], policy, costs, betas, sums)
        return sums

    # Each chunk has sums of the whole grid, so there are no more chunks than cores.
    totals = np.sum(share(part, len(scores), each=1), axis=0)[layers]
    if not few:
        totals = totals[:, ::-1].cumsum(axis=1)[:, ::-1]
    means = totals.reshape(-1, len(measures) + 1) * np.append(units, 1.0) / len(trace.labels)
    columns = {
        "beta": np.tile(betas, len(layers)),
        "start_layer": np.repeat(layers, len(betas)),
        "accuracy": means[:, -1],
    }
    return pd.DataFrame(columns | {measure: means[:, place] for place, measure in enumerate(measures)})
