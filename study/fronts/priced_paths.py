"""Costs of paths as shares of the classic network's cost, and the prices that weigh them against accuracy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from study.arrays import Floats
from study.costs.costs import Costs, Measure
from study.errors import UserError
from study.policies.replay import Walk

PRICES: tuple[float, ...] = tuple(float(price) for price in np.geomspace(0.003, 3.0, 61))
"""Prices of a front: accuracy that a whole run of the classic network is worth, from safe to cheap settings."""


class PathShares(NamedTuple):
    """What a path costs, as shares of a run of the classic network."""

    reach: Floats
    """``[E+1]``: all segments up to an exit; the last is 1, or in a cascade more by its heads."""
    head: Floats
    """``[E+1]``: the head of an exit and the decision there; 0 for the classifier."""

    @classmethod
    def of(cls, costs: Costs, measure: Measure, decision_flops: float = 0.0) -> PathShares:
        """The shares of one measure.

        Raises:
            UserError: the costs do not hold the measure, or the classic network costs nothing.
        """
        segments, heads, _ = costs.parts(measure)
        total = costs.classic(measure)
        if not total > 0:
            raise UserError(f"objective {measure}: the network without exits costs nothing, so that no share is known")
        own = decision_flops if measure == "flops" else 0.0
        return cls(np.cumsum(segments) / total, np.append(heads + own, 0.0) / total)

    def of_walk(self, walk: Walk) -> Floats:
        """``[N]``: the cost of each sample of a walk without engine."""
        return self.reach[walk.exit_index - 1] + walk.tried @ self.head[:-1]
