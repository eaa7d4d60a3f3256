"""The exact front of a space as a report: the points, the reference network, and what the study's own search found."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from results.pareto import non_dominated
from results.parts import rows_of
from results.schemas import METRICS, SETTINGS
from search_spaces.spec import OperatingPointsSpec
from study.errors import UserError
from study.search.exact_search import exact_points
from study.search.hypervolume import HypervolumeIndicator, classic_cost
from study.search.operating_point import COLUMNS
from study.search.space import constraint_values
from study.search.traced_network import TracedNetwork, reference_network


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactReport:
    """The exact front of some networks on validation."""

    points: pd.DataFrame
    """One row a point: the columns of settings and metrics, ``accuracy_drop``, and ``<objective>_share`` of the
    reference network's costs."""
    reference: TracedNetwork
    reference_costs: dict[str, float]
    """Objective -> cost of the reference network without exits, as far as the costs hold it."""
    network_count: int
    seconds: float
    """The time that the front took."""
    hypervolume: float
    search: Mapping[str, float | None]
    """What the study's own search found; empty where the study has no operating points yet.

    ``hypervolume_ratio_of_the_search``: its share of the hypervolume; None where the hypervolume is 0.
    ``dominated_by_the_search``: the share of the points that a point of the search dominates: the search may have had
    another space.
    """

    def facts(self) -> dict[str, Any]:
        """The report without its points, as JSON-able values."""
        return {
            "split": "validation",
            "networks": self.network_count,
            "seconds": self.seconds,
            "hypervolume": self.hypervolume,
            "classic": f"{self.reference.trial_id} ({self.reference.precision})",
            "classic_accuracy": self.reference.classic_accuracy,
            **{f"classic_{objective}": value for objective, value in self.reference_costs.items()},
            **self.search,
        }


def exact_report(spec: OperatingPointsSpec, networks: Sequence[TracedNetwork], searched: pd.DataFrame) -> ExactReport:
    """Compute the exact front of a search space.

    Args:
        spec: the space; its front can be computed exactly.
        networks: to choose from.
        searched: the study's table ``operating_points``, which may be empty. Points that break a constraint of this
            space are left out.

    Raises:
        UserError: no point keeps the constraints.
    """
    start = time.perf_counter()
    reference = reference_network(networks)
    found, values = exact_points(spec, networks, reference.classic_accuracy)
    seconds = time.perf_counter() - start
    if not found:
        raise UserError("front --exact: no point of this space keeps the constraints")
    rows = [{**one.settings(), **one.evaluate(), "split": "validation", "batch_size": spec.batch_size} for one in found]
    points = pd.DataFrame(rows, columns=["trial_id", "data", *SETTINGS, *METRICS])
    held = {"flops": True, "energy": reference.costs.holds("energy"), "latency_mean": reference.costs.holds("seconds")}
    costs = {objective: classic_cost(reference, objective) for objective, known in held.items() if known}
    points["accuracy_drop"] = reference.classic_accuracy - points["accuracy"]
    for objective, column in COLUMNS.items():
        if objective in costs and column in points:
            points[f"{objective}_share"] = points[column] / costs[objective]
    indicator = HypervolumeIndicator.of(spec.objectives, networks)
    return ExactReport(
        points=points,
        reference=reference,
        reference_costs=costs,
        network_count=len({network.trial_id for network in networks}),
        seconds=seconds,
        hypervolume=indicator.of_values(values),
        search={} if searched.empty else _found_by_search(searched, spec, networks, points, indicator),
    )


def _found_by_search(
    searched: pd.DataFrame,
    spec: OperatingPointsSpec,
    networks: Sequence[TracedNetwork],
    front: pd.DataFrame,
    indicator: HypervolumeIndicator,
) -> dict[str, float | None]:
    own = searched[(searched["state"] == "COMPLETE") & searched["trial_id"].isin([one.trial_id for one in networks])]
    reference, limits = reference_network(networks).classic_accuracy, spec.constraints.limits
    exceeded = [constraint_values(row, limits, reference) for row in rows_of(own)]
    kept = np.array([all(value <= 0 for value in values.values()) for values in exceeded], dtype=np.bool_)
    columns = [COLUMNS[objective] for objective in spec.objectives]
    exact = front[columns].to_numpy(dtype=np.float64)
    found = own.loc[kept, columns].dropna().to_numpy(dtype=np.float64)
    both = np.concatenate([exact, found])
    maximize = [objective == "accuracy" for objective in spec.objectives]
    dominated = ~non_dominated(both, maximize=maximize)[: len(exact)]
    truth = indicator.of_values(exact)
    ratio = indicator.of_values(found) / truth if truth else None
    return {"hypervolume_ratio_of_the_search": ratio, "dominated_by_the_search": float(dominated.mean())}
