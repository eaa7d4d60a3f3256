"""The quality of a search: the hypervolume of the points found, as a share of a common box."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.pareto import hypervolume, non_dominated
from study.arrays import Floats
from study.search.exact_search import MEASURES
from study.search.operating_point import COLUMNS
from study.search.traced_network import TracedNetwork

MARGIN = 1.1
"""Cost of the reference point, as a multiple of the cost of the classic network."""
GROWTH = 1e-3
"""Growth of the hypervolume, as a share, below which a search is on a plateau."""


@dataclass(frozen=True, eq=False)
class HypervolumeIndicator:
    """The hypervolume indicator: the share of a box that a set of operating points dominates (Zitzler and Thiele 1998).

    The box lies between an ideal point, with accuracy 1 and no cost, and a reference point. The reference point has the
    accuracy of guessing, 1 / C, and :data:`MARGIN` times the cost of the classic network; of several networks the most
    expensive one counts.
    """

    objectives: Sequence[str]
    reference: Mapping[str, float]
    """Objective -> value of the reference point."""

    @classmethod
    def of(cls, objectives: Sequence[str], networks: Sequence[TracedNetwork]) -> HypervolumeIndicator:
        """The indicator for the networks of one search."""
        costs = [name for name in objectives if name != "accuracy"]
        dearest = {name: max(classic_cost(network, name) for network in networks) for name in costs}
        guessing = 1 / networks[0].validation.logits.shape[2]
        return cls(objectives, {"accuracy": guessing} | {name: MARGIN * cost for name, cost in dearest.items()})

    def hypervolume(self, rows: Iterable[Mapping[str, Any]], *, prefix: str = "") -> float:
        """The hypervolume of rows of a table; ``prefix`` is the prefix of the columns: ``test_`` or none."""
        return self.of_values(self.values(rows, prefix=prefix))

    def values(self, rows: Iterable[Mapping[str, Any]], *, prefix: str = "") -> Floats:
        """The objectives of operating points, ``[n, M]``."""
        columns = [prefix + COLUMNS[name] for name in self.objectives]
        values = np.array([[row[column] for column in columns] for row in rows], dtype=np.float64)
        return values.reshape(-1, len(self.objectives))

    def update_front(self, front: Floats, more: Floats) -> Floats:
        """The non-dominated points of two sets ``[n, M]``, without duplicates, in their order."""
        values = np.concatenate([front, more])
        _, first = np.unique(values, axis=0, return_index=True)
        values = values[np.sort(first)]
        return values[non_dominated(values, maximize=[name == "accuracy" for name in self.objectives])]

    def of_values(self, values: Floats) -> float:
        """The hypervolume of points ``[n, M]``; columns in the order of the objectives."""
        if not len(values):
            return 0.0
        columns = []
        for place, objective in enumerate(self.objectives):
            worst, column = self.reference[objective], values[:, place]
            columns.append((1 - column) / (1 - worst) if objective == "accuracy" and worst < 1 else column / worst)
        return hypervolume(np.column_stack(columns), np.ones(len(columns)))


def classic_cost(network: TracedNetwork, objective: str) -> float:
    """The cost of a network without exits. For a percentile of latencies: the same as for the mean."""
    if objective == "energy":
        return float(network.cut_energies[-1])
    return network.costs.classic(MEASURES.get(objective, "seconds"))


def on_plateau(hypervolumes: Sequence[float], batches: int) -> bool:
    """Whether the last ``batches`` batches added less than :data:`GROWTH` to the hypervolume.

    Args:
        hypervolumes: after each batch.
        batches: number of batches to look back.

    Returns:
        False as long as no point is found: the hypervolume is then 0.
    """
    if len(hypervolumes) <= batches or hypervolumes[-1] == 0:
        return False
    return hypervolumes[-1] - hypervolumes[-1 - batches] < GROWTH * hypervolumes[-1]
