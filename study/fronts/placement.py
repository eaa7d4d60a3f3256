"""The cheapest operating point of a placement, without its front: for searches over thousands of placements.

The scores of all samples at all exits are sorted once. For a placement (a subset of exits), beta falls along the
sorted scores: a sample moves to an earlier exit of the subset when beta reaches the sample's score there. One pass
gives the right answers and the costs of every operating point of the subset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from study.arrays import Floats, Integers
from study.costs.costs import Costs
from study.fronts.sweep import PartCosts, Sweep
from study.policies.criteria import Criterion
from study.policies.decision_table import table_for
from study.policies.policies import Placed
from study.traces.trace import Trace


class ScoreList(NamedTuple):
    """The n scores above 0, from high to low; 16 bytes a score."""

    score: Floats
    """``[n]``, falling."""
    sample: NDArray[np.int32]
    """``[n]``."""
    exit: NDArray[np.int32]
    """``[n]``, from 1."""


class Bounds(NamedTuple):
    """What a point must keep to, for D bounds on the accuracy."""

    least_right: Integers
    """``[D]``, right answers that a point must have at least."""
    most: Floats
    """``[M]``, the largest mean of each cost; infinity for no limit."""
    units: Floats
    """``[M]``, of the costs."""


@dataclass(frozen=True, eq=False)
class SortedScores:
    """The scores of a trace under one criterion, sorted, with the costs of a network."""

    scores: ScoreList
    right: NDArray[np.int8]
    """``[N, E+1]``."""
    costs: PartCosts
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
        parts, units = Sweep(trace, costs, every).part_costs(measures)
        scores = table_for(trace, every).stop
        order = np.argsort(-scores, axis=None, kind="stable")
        order = order[scores.ravel()[order] > 0]
        sample, exit = np.unravel_index(order, scores.shape)
        falling = ScoreList(scores.ravel()[order], sample.astype(np.int32), (exit + 1).astype(np.int32))
        return cls(falling, trace.right, parts, units)

    def cheapest(self, exits: Sequence[int], least_right: Integers, most: Mapping[int, float]) -> Floats:
        """The least mean cost of a placement over all betas, for each bound on the accuracy. O(N E).

        Args:
            exits: the placement.
            least_right: ``[D]``, right answers that a point must have at least.
            most: place of a measure -> the largest mean that is allowed.

        Returns:
            ``[D]``, infinity where no beta keeps a bound.
        """
        from study.fronts.kernels import find_cheapest

        samples, columns = self.right.shape
        tried = np.zeros(columns + 1, dtype=np.bool_)
        tried[list(exits)] = True
        # A sample that stops at an exit has run the segments up to that exit, and the heads of the subset up to it.
        costs = self.costs.ends + np.where(tried[:, None], self.costs.heads, 0).cumsum(axis=0)
        limits = np.full(len(self.units), np.inf)
        for measure, limit in most.items():
            limits[measure] = limit * (1 + 1e-12)
        best = np.full(len(least_right), np.iinfo(np.int64).max)
        bounds = Bounds(np.asarray(least_right), limits, self.units)
        find_cheapest(self.scores, self.right, tried, costs, bounds, best)
        return np.where(best < np.iinfo(np.int64).max, best * self.units[0] / samples, np.inf)
