"""Many operating points of one network at once: a grid over beta, start layer, longest jump and overshoot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from study.arrays import Integers, share
from study.costs.costs import MEASURES, Costs
from study.errors import UserError
from study.fronts.sweep import Sweep, kernel_arguments
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
    """Accuracy and mean costs of every point of a grid, equal to those of one :func:`study.replay` each.

    All start layers of a beta come out of one pass from the last exit to the first. Of more than some betas, all come
    out of one pass over the pieces of each sample (:mod:`study.policies.kernels`), whose time hardly grows with them:
    O(N E K_max min(B, E log B)) for each longest jump and overshoot.

    Args:
        trace: N samples.
        costs: of the network that made it.
        betas: B of them, each above 0, in any order.
        start_layers: all exits by default.
        max_jumps: K_max of the engine; 0 is the hierarchical walk, for which overshoot means nothing.
        overshoots: as of ``Predictive``.

    Returns:
        One row a point: beta, start_layer, max_jump, overshoot, accuracy and each measure that the costs hold.

    Raises:
        UserError: a value of the grid is none, or trace and costs do not belong together.
    """
    rising = np.unique(np.asarray(betas, dtype=np.float64))
    if not len(rising) or not (rising > 0).all():
        raise UserError(f"betas are {list(betas)}, but must be numbers above 0")
    for overshoot in overshoots:
        Predictive(1.0, overshoot=overshoot)  # refuses an unknown one, where no engine would ask for it
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
"""Betas up to which a pass for each of them is faster than the pieces of all of them."""


def _points(sweep: Sweep, betas: np.ndarray, measures: Sequence[str]) -> pd.DataFrame:
    from study.policies.kernels import add_changes, add_points

    arguments, units = kernel_arguments(sweep, measures)
    trace, layers = sweep.trace, np.asarray(sweep.start_layers)
    scores = table_for(trace, sweep.rule).scores
    size, few = (trace.exit_count + 2, len(betas)), len(betas) <= FEW

    def part(chunk: slice) -> tuple[Integers, Integers]:
        right, sums = np.zeros(size, dtype=np.int64), np.zeros((*size, len(measures)), dtype=np.int64)
        add = add_points if few else add_changes
        add(scores[chunk], trace.right[chunk], *arguments, betas, right, sums)
        return right, sums

    # Per chunk there are tables of the whole grid: no more chunks than cores.
    parts = share(part, len(scores), each=1)
    right, sums = (np.sum([one[i] for one in parts], axis=0)[layers] for i in (0, 1))
    if not few:
        right, sums = (changes[:, ::-1].cumsum(axis=1)[:, ::-1] for changes in (right, sums))
    samples = len(trace.labels)
    columns = {
        "beta": np.tile(betas, len(layers)),
        "start_layer": np.repeat(layers, len(betas)),
        "accuracy": right.ravel() / samples,
    }
    means = sums.reshape(-1, len(measures)) * units / samples
    return pd.DataFrame(columns | {measure: means[:, place] for place, measure in enumerate(measures)})
