"""The cheapest operating point of each policy family within a bound on the loss of accuracy, on validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from search_spaces.choices import Choice
from search_spaces.spec import OperatingPointsSpec
from study.arrays import Floats
from study.policies.criteria import Criterion
from study.policies.policies import POLICIES, HeadThresholds
from study.search.exact_search import exact_points
from study.search.operating_point import OperatingPoint
from study.search.space import SEARCHABLE
from study.search.traced_network import TracedNetwork

Objective = Literal["flops", "energy"]
_ROUNDING = 1e-12
_FITTED: tuple[Criterion, ...] = ("max_softmax", "margin")
"""The criteria for which thresholds of each head are fitted."""


@dataclass(frozen=True)
class PolicyFamily:
    """All policies of one kind with one exit criterion: every beta, start layer and jump, or every price."""

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
        if "exits" not in kind.settings() and not (kind.fitted and "criterion" in kind.settings())
        if kind.fitted or "beta" not in kind.settings() or kind.has_compiled_form()
    ),
    *(PolicyFamily("hierarchical", criterion) for criterion in SEARCHABLE if criterion != "logit"),
    *(PolicyFamily(HeadThresholds.name, criterion) for criterion in _FITTED),
    PolicyFamily("hierarchical", "oracle"),
)
"""Every policy by the paper's criterion, confidence rules, and the policies that are fitted to calibration images. The
oracle stops at the first exit whose answer is right: no real policy knows the labels. A policy without a compiled form
has no exact front, and is left out; so is ``placed``, of whose best choice of exits ``head_thresholds`` is a general
form.
"""
ORACLE = FAMILIES[-1].name


@dataclass(frozen=True, eq=False)
class FamilyFront:
    """The non-dominated points of a family on validation, cheapest first."""

    points: list[OperatingPoint]
    accuracies: Floats
    """``[P]``, rising."""

    def cheapest(self, reference_accuracy: float, drop: float) -> OperatingPoint | None:
        """The cheapest point that loses at most ``drop`` against a reference; None where every point loses more."""
        enough = np.flatnonzero(self.accuracies >= reference_accuracy - drop - _ROUNDING)
        return self.points[int(enough[0])] if len(enough) else None

    def spread(self, most: int, least_accuracy: float) -> list[OperatingPoint]:
        """At most so many points of at least some accuracy, whose accuracies are spread evenly."""
        places = np.flatnonzero(self.accuracies >= least_accuracy - _ROUNDING)
        if len(places) > most:
            wanted = np.linspace(self.accuracies[places[0]], self.accuracies[-1], most)
            places = np.unique(np.searchsorted(self.accuracies, wanted))
        return [self.points[place] for place in places]


def family_front(
    spec: OperatingPointsSpec,
    network: TracedNetwork,
    family: PolicyFamily,
    objective: Objective,
    least_accuracy: float,
) -> FamilyFront:
    """All points of a family that are worth a look.

    Args:
        spec: statistics, jumps, overshoots and constraints; the constraint on accuracy is replaced.
        network: whose validation split chooses.
        family: which policies.
        objective: the cost to minimise.
        least_accuracy: on validation; points below it are left out.
    """
    space = spec.model_copy(
        update={
            "objectives": ["accuracy", objective],
            "policy": Choice(values=(family.policy,)),
            "criterion": Choice(values=(family.criterion,)),
            "placements": "auto",
            "dvfs": Choice(values=("none",)),
            "beta": "auto",
            "price": "auto",
            "start_layer": "auto",
            "constraints": spec.constraints.model_copy(update={"accuracy_drop": _ROUNDING}),
        }
    )
    points, values = exact_points(space, [network], least_accuracy)
    return FamilyFront(points, values[:, 0])
