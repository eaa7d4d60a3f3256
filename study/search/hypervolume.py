"""How good a search is: the hypervolume of what it found, beside that of the exact front."""

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
"""The reference point is this many times as dear as the classic network."""
GROWTH = 1e-3
"""A batch that adds less than this share to the hypervolume belongs to a plateau."""


@dataclass(frozen=True, eq=False)
class HypervolumeIndicator:
    """Hypervolumes of sets of operating points, as a share of the box between an ideal and a reference point.

    The ideal point is always right and costs nothing. The reference point guesses (1 / C) and costs 1.1 times as much
    as the classic network, the dearest one where several networks are searched.
    """

    objectives: Sequence[str]
    reference: Mapping[str, float]
    """Objective -> value of the reference point."""

    @classmethod
    def of(cls, objectives: Sequence[str], networks: Sequence[TracedNetwork]) -> HypervolumeIndicator:
        """For the networks of one search."""
        reference = {}
        for objective in objectives:
            if objective == "accuracy":
                reference[objective] = 1 / networks[0].validation.logits.shape[2]
            else:
                reference[objective] = MARGIN * max(_classic(network, objective) for network in networks)
        return cls(objectives, reference)

    def hypervolume(self, rows: Iterable[Mapping[str, Any]], *, prefix: str = "") -> float:
        """Of operating points as rows of the tables; ``prefix`` is that of their columns."""
        return self.of_values(self.values(rows, prefix=prefix))

    def values(self, rows: Iterable[Mapping[str, Any]], *, prefix: str = "") -> Floats:
        """The objectives of operating points, ``[n, M]``."""
        columns = [prefix + COLUMNS[name] for name in self.objectives]
        values = np.array([[row[column] for column in columns] for row in rows], dtype=np.float64)
        return values.reshape(-1, len(self.objectives))

    def update_front(self, front: Floats, more: Floats) -> Floats:
        """Those of both ``[n, M]`` that no other dominates, each once, in their order."""
        values = np.concatenate([front, more])
        _, first = np.unique(values, axis=0, return_index=True)
        values = values[np.sort(first)]
        return values[non_dominated(values, maximize=[name == "accuracy" for name in self.objectives])]

    def of_values(self, values: Floats) -> float:
        """Of points ``[n, M]``, in the order of the objectives."""
        if not len(values):
            return 0.0
        columns = []
        for place, objective in enumerate(self.objectives):
            worst, column = self.reference[objective], values[:, place]
            columns.append((1 - column) / (1 - worst) if objective == "accuracy" and worst < 1 else column / worst)
        return hypervolume(np.column_stack(columns), np.ones(len(columns)))


def _classic(network: TracedNetwork, objective: str) -> float:
    if objective == "energy":
        return float(network.cut_energies[-1])
    return network.costs.classic(MEASURES.get(objective, "seconds"))


def on_plateau(hypervolumes: Sequence[float], batches: int) -> bool:
    """Whether the last so many batches have hardly added anything; ``hypervolumes`` are those after each batch."""
    if len(hypervolumes) <= batches or hypervolumes[-1] == 0:  # nothing is found yet: no plateau, but the plain
        return False
    return hypervolumes[-1] - hypervolumes[-1 - batches] < GROWTH * hypervolumes[-1]
