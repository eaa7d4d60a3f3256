"""The cheapest operating point of a placement, without its front: for searches over thousands of placements.

The scores of all samples at all exits are sorted once. For a placement (a subset of exits), beta falls along the
sorted scores: a sample moves to an earlier exit of the subset when beta reaches the sample's score there. One pass
gives the right answers and the costs of every operating point of the subset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.arrays import Booleans, Floats, Integers
from study.costs.costs import Costs
from study.fronts.sweep import Sweep, kernel_arguments
from study.policies.criteria import Criterion
from study.policies.decision_table import table_for
from study.policies.kernels import _compiled
from study.policies.policies import Placed
from study.traces.trace import Trace


@dataclass(frozen=True, eq=False)
class SortedScores:
    """The scores of a trace under one criterion, from high to low, with the costs of a network.

    8 bytes a score, and 4 for the place of a score: 1.2 MB for 5,000 samples and 20 exits.
    """

    score: Floats
    """``[n]``, the scores above 0, falling."""
    sample: NDArray[np.int32]
    """``[n]``."""
    exit: NDArray[np.int32]
    """``[n]``, from 1."""
    right: NDArray[np.int8]
    """``[N, E+1]``."""
    ends: Integers
    """``[E+2, M]``, the cost of all segments up to each exit, and of the whole network, in units."""
    heads: Integers
    """``[E+2, M]``, the cost of each exit head, in units."""
    units: Floats
    """``[M]``."""

    @classmethod
    def of(cls, trace: Trace, costs: Costs, criterion: Criterion, measures: Sequence[str]) -> SortedScores:
        """Sort the scores of a trace. O(N E log(N E)).

        Args:
            trace: N samples.
            costs: of the network that made the trace.
            criterion: any but ``patience``, whose scores depend on the subset.
            measures: M of them; the first one is what :meth:`cheapest` minimises.
        """
        assert criterion != "patience"
        every = Placed(1.0, range(1, trace.exit_count + 1), criterion)
        (_, _, _, heads, _, ends), units = kernel_arguments(Sweep(trace, costs, every), measures)
        scores = table_for(trace, every).stop
        order = np.argsort(-scores, axis=None, kind="stable")
        order = order[scores.ravel()[order] > 0]
        sample, exit = np.unravel_index(order, scores.shape)
        return cls(
            score=scores.ravel()[order],
            sample=sample.astype(np.int32),
            exit=(exit + 1).astype(np.int32),
            right=trace.right,
            ends=ends,
            heads=heads,
            units=units,
        )

    def cheapest(self, exits: Sequence[int], least_right: Integers, most: Mapping[int, float]) -> Floats:
        """The least mean cost of a placement over all betas, for each bound on the accuracy. O(N E).

        Args:
            exits: the placement.
            least_right: ``[D]``, right answers that a point must have at least.
            most: place of a measure -> the largest mean that is allowed.

        Returns:
            ``[D]``, infinity where no beta keeps a bound.
        """
        samples, columns = self.right.shape
        tried = np.zeros(columns + 1, dtype=np.bool_)
        tried[list(exits)] = True
        # A sample that stops at an exit has run the segments up to that exit, and the heads of the subset up to it.
        costs = self.ends + np.where(tried[:, None], self.heads, 0).cumsum(axis=0)
        limits = np.full(len(self.units), np.inf)
        for measure, limit in most.items():
            limits[measure] = limit * (1 + 1e-12)
        best = np.full(len(least_right), np.iinfo(np.int64).max)
        _cheapest(
            self.score,
            self.sample,
            self.exit,
            self.right,
            tried,
            costs,
            self.units,
            limits,
            np.asarray(least_right),
            best,
        )
        return np.where(best < np.iinfo(np.int64).max, best * self.units[0] / samples, np.inf)


@_compiled
def _cheapest(
    score: Floats,
    sample: NDArray[np.int32],
    exit: NDArray[np.int32],
    right: NDArray[np.int8],
    tried: Booleans,
    costs: Integers,
    units: Floats,
    limits: Floats,
    least_right: Integers,
    best: Integers,
) -> Any:
    """``best [D]`` receives the least cost among the points with at least ``least_right [D]`` right answers."""
    samples, last = right.shape
    measures = costs.shape[1]
    here = np.full(samples, last, dtype=np.int32)
    hits = 0
    sums = np.zeros(measures, dtype=np.int64)
    for n in range(samples):
        hits += right[n, last - 1]
    for m in range(measures):
        sums[m] = samples * costs[last, m]
    at = 0
    while True:
        # Scores are above every beta where they are infinite: such samples stop before beta starts to fall.
        if not (at < len(score) and score[at] == np.inf):
            allowed = True
            for m in range(measures):
                allowed = allowed and sums[m] * units[m] / samples <= limits[m]
            if allowed:
                for d in range(len(best)):
                    if hits >= least_right[d] and sums[0] < best[d]:
                        best[d] = sums[0]
        if at >= len(score):
            break
        beta = score[at]
        while at < len(score) and score[at] == beta:
            n, to = sample[at], exit[at]
            if tried[to] and to < here[n]:
                hits += right[n, to - 1] - right[n, here[n] - 1]
                for m in range(measures):
                    sums[m] += costs[to, m] - costs[here[n], m]
                here[n] = to
            at += 1
