"""The cheapest operating point of each policy family within a bound on the loss of accuracy, on validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from search_spaces.choices import Choice
from search_spaces.spec import OperatingPointsSpec
from study.arrays import Floats
from study.policies.criteria import Criterion
from study.policies.policies import POLICIES, Placed
from study.policies.thresholds import Statistic
from study.search.exact_search import MEASURES, exact_points, is_possible
from study.search.operating_point import OperatingPoint
from study.search.space import SEARCHABLE
from study.search.traced_network import TracedNetwork

Objective = Literal["flops", "energy"]
_ROUNDING = 1e-12
_PLACED: tuple[Criterion, ...] = ("max_softmax", "margin")
"""The confidence rules that are compared on chosen subsets of exits: each search of subsets takes seconds."""


@dataclass(frozen=True)
class PolicyFamily:
    """All policies of one kind with one exit criterion: every beta, start layer, jump and subset of exits."""

    policy: str
    criterion: Criterion = "logit"

    @property
    def name(self) -> str:
        """The name in tables."""
        return self.policy if self.criterion == "logit" else f"{self.policy}, {self.criterion}"


FAMILIES = (
    *(
        PolicyFamily(name)
        for name, kind in POLICIES.items()
        if "beta" not in kind.settings() or kind.has_compiled_form()
    ),
    *(PolicyFamily("hierarchical", criterion) for criterion in SEARCHABLE if criterion != "logit"),
    *(PolicyFamily("placed", criterion) for criterion in _PLACED),
    PolicyFamily("hierarchical", "oracle"),
)
"""Every policy by the paper's criterion, and confidence rules. The oracle stops at the first exit whose answer is
right: no real policy knows the labels. A policy without a compiled form has no exact front, and is left out.
"""
ORACLE = FAMILIES[-1].name


class CheapestPoints:
    """The cheapest points of the policy families on one network at one precision."""

    def __init__(
        self,
        spec: OperatingPointsSpec,
        network: TracedNetwork,
        reference_accuracy: float,
        drops: Sequence[float],
        objective: Objective,
    ) -> None:
        """Prepare the choice.

        Args:
            spec: statistics, jumps, overshoots and constraints; the constraint on accuracy is replaced by ``drops``.
            network: whose validation split chooses.
            reference_accuracy: the accuracy that a loss counts from.
            drops: the bounds: shares of the images that may be lost.
            objective: the cost to minimise.
        """
        self._spec, self._network, self._reference_accuracy = spec, network, reference_accuracy
        self._drops, self._objective = sorted(set(drops)), objective

    def choose(self, family: PolicyFamily) -> dict[float, OperatingPoint]:
        """Drop -> the cheapest point of a family; a drop that no point keeps is left out."""
        if family.policy != "placed":
            points, values = self._exact_points(family)
            chosen = {drop: self._place_of_cheapest(values, drop) for drop in self._drops}
            return {drop: points[place] for drop, place in chosen.items() if place is not None}
        search = _PlacementSearch(
            self._spec, self._network, self._reference_accuracy, self._drops, self._objective, family.criterion
        )
        found: dict[float, OperatingPoint] = {}
        for drop, exits in search.best_placements().items():
            points, values = self._exact_points(family, exits)
            place = self._place_of_cheapest(values, drop)
            assert place is not None, "the search found a point of this placement"
            found[drop] = points[place]
        return found

    def _place_of_cheapest(self, values: Floats, drop: float) -> int | None:
        """The row of ``values [P, 2]`` (accuracy, cost) with the least cost within a bound."""
        enough = np.flatnonzero(values[:, 0] >= self._reference_accuracy - drop - _ROUNDING)
        return int(enough[values[enough, 1].argmin()]) if len(enough) else None

    def _exact_points(
        self, family: PolicyFamily, exits: tuple[int, ...] | None = None
    ) -> tuple[list[OperatingPoint], Floats]:
        """The exact front of a family, or of one placement of the family ``placed``."""
        largest = self._drops[-1] + _ROUNDING
        space = self._spec.model_copy(
            update={
                "objectives": ["accuracy", self._objective],
                "policy": Choice(values=(family.policy,)),
                "criterion": Choice(values=(family.criterion,)),
                "placements": "auto" if exits is None else [list(exits)],
                "dvfs": Choice(values=("none",)),
                "beta": "auto",
                "start_layer": "auto",
                "constraints": self._spec.constraints.model_copy(update={"accuracy_drop": largest}),
            }
        )
        return exact_points(space, [self._network], self._reference_accuracy)


class _PlacementSearch:
    """A local search for the best subset of exits.

    The neighbours of a subset are the subsets with one exit more or one exit less. From a start, the search moves to
    the cheapest neighbour until no neighbour is cheaper. The starts, for each bound: no exit; the cheapest subset of
    the form l..E; the cheapest subset that was priced for a tighter bound. The optimum is not guaranteed: there are
    2^E subsets. A subset is priced once, for all bounds together.
    """

    def __init__(
        self,
        spec: OperatingPointsSpec,
        network: TracedNetwork,
        reference_accuracy: float,
        drops: Sequence[float],
        objective: Objective,
        criterion: Criterion,
    ) -> None:
        from study.fronts.placement import SortedScores

        self._spec, self._network, self._criterion, self._drops = spec, network, criterion, drops
        limits = {MEASURES[name]: limit for name, limit in spec.constraints.limits.items() if name in MEASURES}
        measures = list(dict.fromkeys([MEASURES[objective], *limits]))
        self._limits = {measures.index(measure): limit for measure, limit in limits.items()}
        statistics = cast(Sequence[Statistic | None], spec.statistic.values if criterion == "logit" else (None,))
        self._scores = [
            SortedScores.of(network.trace(statistic), network.costs, criterion, measures) for statistic in statistics
        ]
        samples = len(network.validation.labels)
        accuracies = np.arange(samples + 1) / samples
        least = [reference_accuracy - drop - _ROUNDING for drop in drops]
        self._least_right = np.searchsorted(accuracies, least)
        self._costs: dict[tuple[int, ...], Floats] = {}

    def best_placements(self) -> dict[float, tuple[int, ...]]:
        """Drop -> the best subset found; a drop that no subset keeps is left out."""
        exits = range(1, self._network.exit_count + 1)
        found: dict[float, tuple[int, ...]] = {}
        for bound, drop in enumerate(self._drops):
            priced = list(self._costs)
            suffix = self._cheapest((tuple(exits[first:]) for first in range(len(exits))), bound)
            ends = []
            for start in (None, suffix, self._cheapest(priced, bound)):
                end = self._descend(start, bound)
                ends += [end] if end else []
            if ends:
                found[drop] = min(ends, key=lambda one: one[0])[1]
        return found

    def _descend(self, best: tuple[float, tuple[int, ...]] | None, bound: int) -> tuple[float, tuple[int, ...]] | None:
        """The end of the descent from a start: ``(cost, subset)``."""
        while True:
            here = set(best[1]) if best else set()
            neighbours = (here ^ {exit} for exit in range(1, self._network.exit_count + 1))
            better = self._cheapest((tuple(sorted(subset)) for subset in neighbours if subset), bound)
            if better is None or (best and better[0] >= best[0]):
                return best
            best = better

    def _cheapest(self, subsets: Iterable[tuple[int, ...]], bound: int) -> tuple[float, tuple[int, ...]] | None:
        """The first of the cheapest subsets; None where no subset keeps the bound."""
        costs = [(float(self._costs_of(subset)[bound]), subset) for subset in subsets]
        found = [one for one in costs if one[0] < np.inf]
        return min(found, key=lambda one: one[0], default=None)

    def _costs_of(self, subset: tuple[int, ...]) -> Floats:
        """``[D]``, the least cost of a subset for each bound, over all statistics and betas."""
        if subset not in self._costs:
            policy = Placed(1.0, subset, self._criterion)
            if is_possible(self._spec, self._network, policy, "none"):
                every = [one.cheapest(subset, self._least_right, self._limits) for one in self._scores]
                self._costs[subset] = np.min(every, axis=0)
            else:
                self._costs[subset] = np.full(len(self._drops), np.inf)
        return self._costs[subset]
