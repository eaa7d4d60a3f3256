"""The exact front: all non-dominated operating points over every beta and start layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from results.pareto import non_dominated
from study.arrays import Booleans, concurrently
from study.costs.costs import Costs
from study.errors import UserError
from study.fronts.sweep import Changes, Points, Sweep, changes
from study.policies.base import Policy
from study.policies.criteria import Criterion
from study.policies.policies import Overshoot, Predictive
from study.traces.trace import Trace


@dataclass(frozen=True)
class Limits:
    """Limits on the points of a front."""

    beta: tuple[float, float] = (0.0, np.inf)
    """A point is allowed if its interval of beta meets this closed interval."""
    least_accuracy: float = 0.0
    """The smallest accuracy that is allowed."""
    most: Mapping[str, float] = field(default_factory=dict)
    """Measure -> the largest mean per image that is allowed."""


def exact_front(
    trace: Trace | Mapping[str, tuple[Trace, Costs]],
    costs: Costs | None = None,
    policy: type[Policy] = Predictive,
    objectives: Sequence[str] = ("accuracy", "flops"),
    *,
    start_layers: Sequence[int] | None = None,
    max_jump: int = 8,
    overshoot: Overshoot = "last_exit",
    criterion: Criterion = "logit",
    exits: Sequence[int] | None = None,
) -> pd.DataFrame:
    """All non-dominated operating points over every beta > 0 and every start layer.

    Args:
        trace: N samples. For several networks (checkpoints, precisions) traced on the same images: name -> (trace,
            costs).
        costs: of the network that made the trace.
        policy: ``Predictive``, ``Hierarchical``, ``Placed``, or another policy with a beta and a compiled form.
        objectives: ``accuracy`` (maximised) and any of ``flops``, ``bitops``, ``energy``, ``seconds`` (minimised).
        start_layers: the start layers to sweep; all exits by default.
        max_jump, overshoot, criterion, exits: settings of the policy, if it has them.

    Returns:
        Columns network (for several networks), start_layer, beta_low, beta_high and the objectives (accuracy as a
        share, costs as the mean per image), sorted by the first cost. A point holds for every beta in (beta_low,
        beta_high]. Of points that are equal in every objective, one is kept: of the first network, the lowest start
        layer and the highest beta.

    Raises:
        UserError: traces, costs and policy do not belong together, or an objective is unknown.
    """
    if isinstance(trace, Trace):
        if costs is None:
            raise UserError("the exact front of a trace needs its costs")
        networks: Mapping[str, tuple[Trace, Costs]] = {"": (trace, costs)}
    else:
        networks = trace
    if "beta" not in policy.settings():
        raise UserError(f"an exact front needs a policy with a beta, and {policy.__name__} has none")
    if criterion != "logit" and "criterion" not in policy.settings():
        raise UserError(f"criterion {criterion}: policy {policy.__name__} always uses {policy.criterion}")
    given = {"beta": 1.0, "max_jump": max_jump, "overshoot": overshoot, "criterion": criterion, "exits": exits or ()}
    rule = policy.from_settings(given)
    sweeps = [Sweep(one, of_one, rule, start_layers) for one, of_one in networks.values()]
    check_comparable([of_one for _, of_one in networks.values()])
    front = front_of_sweeps(sweeps, objectives)
    columns = ["start_layer", "beta_low", "beta_high", *objectives]
    if not isinstance(trace, Trace):
        front["network"] = front["sweep"].map(dict(enumerate(networks)))
        columns = ["network", *columns]
    return front[columns]


def check_comparable(networks: Sequence[Costs]) -> None:
    """Refuse by a UserError to compare costs of several sources, devices or batch sizes."""
    for name in ("energy_source", "seconds_source", "device", "batch_size"):
        values = sorted({str(getattr(costs, name)) for costs in networks})
        if len(values) > 1:
            raise UserError(f"the costs have several {name}s ({', '.join(values)}): measure or model them anew")


def front_of_sweeps(sweeps: Sequence[Sweep], objectives: Sequence[str], limits: Limits | None = None) -> pd.DataFrame:
    """The non-dominated points among all operating points of some sweeps.

    Each start layer is filtered by itself. Then the remaining points of all start layers and sweeps are filtered.

    Args:
        sweeps: networks and rules.
        objectives: as in :func:`exact_front`. The ``values`` of a sweep are the costs of the objectives in this order,
            then the other measures of ``limits.most``.
        limits: on the points; None: no limits.

    Returns:
        Columns sweep (an index into ``sweeps``), start_layer, beta_low, beta_high and the objectives, as in
        :func:`exact_front`.

    Raises:
        UserError: there is no sweep, or the objectives are not accuracy and costs.
    """
    limits = Limits() if limits is None else limits
    wanted = [name for name in objectives if name != "accuracy"]
    if "accuracy" not in objectives or not wanted:
        raise UserError(f"objectives are {list(objectives)}, but must be accuracy and at least one cost")
    if not sweeps:
        raise UserError("the exact front needs at least one network")
    measures = list(dict.fromkeys([*wanted, *limits.most]))
    parts = []
    for place, sweep in enumerate(sweeps):
        samples = len(sweep.trace.labels)
        for group in changes(sweep, measures):  # most of the time goes to sorting, once for each start layer
            fronts = concurrently(lambda one: _front_of(one, samples, measures, len(wanted), limits), group)  # noqa: B023
            parts += [{**part, "sweep": np.full(len(part["accuracy"]), place)} for part in fronts]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    table = pd.DataFrame(columns).drop_duplicates(subset=["accuracy", *wanted], ignore_index=True)
    on_front = non_dominated(table[["accuracy", *wanted]].to_numpy(), maximize=[True] + [False] * len(wanted))
    front = table[on_front].sort_values([wanted[0], "accuracy"], ignore_index=True)
    return front[["sweep", "start_layer", "beta_low", "beta_high", *objectives]]


def _front_of(
    found: Changes, samples: int, measures: Sequence[str], wanted: int, limits: Limits
) -> dict[str, NDArray[Any]]:
    """The points of one start layer that may belong to the front: all points of the front, and few others."""
    from study.fronts.kernels import keep_promising

    points = found.add_up()
    kept = np.zeros(len(points.right), dtype=np.bool_)
    right, costs = np.ascontiguousarray(points.right), np.ascontiguousarray(points.sums[:, :wanted])
    keep_promising(right, costs, samples, _allowed(points, samples, measures, limits), kept)
    columns = {
        "start_layer": np.full(int(kept.sum()), points.start_layer),
        "beta_low": points.beta_low[kept],
        "beta_high": points.beta_high[kept],
        "accuracy": points.right[kept] / samples,
    }
    means = points.sums[kept] * points.units / samples
    return columns | {name: means[:, place] for place, name in enumerate(measures)}


def _allowed(points: Points, samples: int, measures: Sequence[str], limits: Limits) -> Booleans:
    """``[P]``: the points within the limits, with a tolerance for rounding."""
    low, high = limits.beta
    allowed = (points.beta_high >= low) & (points.beta_low < high)
    allowed &= points.right >= limits.least_accuracy * samples - 1e-9
    for name, most in limits.most.items():
        place = measures.index(name)
        allowed &= points.sums[:, place] * points.units[place] / samples <= most * (1 + 1e-12)
    return np.asarray(allowed, dtype=np.bool_)
