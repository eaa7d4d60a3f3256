"""The exact front of a whole search space: what phase 2 could find at best, computed instead of searched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Any, cast

import numpy as np

from results.pareto import non_dominated
from search_spaces.choices import Choice
from search_spaces.spec import OperatingPointsSpec
from study.arrays import Floats
from study.costs.model.dvfs import smallest_slack
from study.errors import UserError
from study.fronts.exact import Limits, front_of_sweeps
from study.fronts.sweep import Sweep
from study.policies.base import Policy
from study.policies.policies import POLICIES
from study.policies.replay import Walk
from study.policies.thresholds import Statistic
from study.search.operating_point import OperatingPoint
from study.search.space import constraint_values, known_value
from study.search.traced_network import TracedNetwork

MEASURES = {"flops": "flops", "bitops": "bitops", "energy": "energy", "latency_mean": "seconds"}
"""Objective or constraint -> measure, for those that are means over samples."""


@dataclass(frozen=True, eq=False)
class ExactPoint:
    """A point of the exact front; its beta lies well inside the interval that gives it."""

    point: OperatingPoint
    beta_low: float | None
    beta_high: float | None
    """None for a policy without beta."""

    def settings(self) -> dict[str, Any]:
        """Its columns in the tables."""
        return {**self.point.settings(), "beta_low": self.beta_low, "beta_high": self.beta_high}


def uncovered(spec: OperatingPointsSpec) -> str | None:
    """Why the front of a space cannot be computed exactly, in words; None where it can."""
    if spec.beta == "per_exit":
        return "beta: per_exit has one dimension for each exit"
    if "placed" in spec.policy.values and spec.placements == "auto":
        return "placements: auto has two to the power of the number of exits"
    for name in (*spec.objectives, *spec.constraints.limits):
        if name in ("latency_p50", "latency_p99"):
            return f"{name} is no mean over images: ask for latency_mean"
    return None


def exact_points(
    spec: OperatingPointsSpec, networks: Sequence[TracedNetwork], reference_accuracy: float
) -> tuple[list[ExactPoint], Floats]:
    """The non-dominated operating points of a search space on validation, cheapest first.

    Args:
        spec: the space; :func:`uncovered` must not object to it.
        networks: the networks.
        reference_accuracy: a limit on the drop of accuracy counts from it.

    Returns:
        The points, and their values ``[P, M]`` in the order of the objectives.
    """
    assert uncovered(spec) is None, "the caller asks first"
    wanted = [MEASURES[name] for name in spec.objectives if name != "accuracy"]
    limits = spec.constraints.limits
    most = {MEASURES[name]: limit for name, limit in limits.items() if name in MEASURES}
    measures = list(dict.fromkeys([*wanted, *most]))
    for network in networks:
        for measure in measures:
            network.costs.parts(measure)  # refuses a cost that it does not hold
    least = reference_accuracy - limits["accuracy_drop"] if "accuracy_drop" in limits else 0.0
    found, values = _fixed_points(spec, networks, reference_accuracy)
    sources = [source for network in networks for source in _sources(spec, network, measures)]
    for beta in _beta_ranges(spec) if sources else []:
        sweeps = [source.sweep for source in sources]
        front = front_of_sweeps(sweeps, ["accuracy", *wanted], Limits(beta, least, most))
        rows = zip(*(front[name] for name in ("sweep", "start_layer", "beta_low", "beta_high")), strict=True)
        found += [sources[int(row[0])].at(int(row[1]), (row[2], row[3]), beta) for row in rows]
        values = np.concatenate([values, front[["accuracy", *wanted]].to_numpy()])
    _, first = np.unique(values, axis=0, return_index=True)
    first = first[non_dominated(values[first], maximize=[True] + [False] * len(wanted))]
    first = first[np.lexsort([*values[first].T[::-1][:-1], values[first][:, 1]])]
    order = [["accuracy", *wanted].index(MEASURES.get(name, name)) for name in spec.objectives]
    return [found[place] for place in first], values[first][:, order]


@dataclass(frozen=True, eq=False)
class _Source:
    """A sweep, and what it sweeps in the words of phase 2."""

    network: TracedNetwork
    statistic: Statistic
    dvfs: str
    sweep: Sweep

    def at(self, start_layer: int, interval: tuple[float, float], allowed: tuple[float, float]) -> ExactPoint:
        """The operating point of an interval of beta, as far as it is allowed."""
        low, high = max(interval[0], allowed[0]), min(interval[1], allowed[1])
        policy = self.sweep.policy(_inside(low, high) if low < high else high, start_layer)
        point = OperatingPoint(self.network, self.statistic, policy, dvfs=self.dvfs)
        return ExactPoint(point, *((low, high) if low < high < _LARGEST else interval))


_LARGEST = float(np.finfo(np.float64).max)


def _inside(low: float, high: float) -> float:
    """A beta as far as can be from both ends, in proportion: live logits differ in their last bits."""
    if high >= _LARGEST:
        return low * 2 if low > 0 else 1.0
    middle = float(np.sqrt(low) * np.sqrt(high)) if low > 0 else high / 2
    return middle if low < middle <= high else high


def _beta_ranges(spec: OperatingPointsSpec) -> list[tuple[float, float]]:
    if not isinstance(spec.beta, Choice):
        return [(0.0, _LARGEST)]  # what holds only for an infinite beta is no setting
    if spec.beta.is_range:
        return [(float(spec.beta.low), float(spec.beta.high))]
    return [(float(cast(float, value)), float(cast(float, value))) for value in spec.beta.values]


def _integers(choice: Choice) -> list[int]:
    if choice.is_range:
        return list(range(int(choice.low), int(choice.high) + 1))
    return [int(cast(int, value)) for value in choice.values]


def _rules(spec: OperatingPointsSpec) -> Iterator[tuple[Policy, Sequence[Statistic]]]:
    """Every rule of the space that has a beta, with the statistics that make a difference to it."""
    statistics = cast(Sequence[Statistic], spec.statistic.values)
    values: dict[str, Sequence[Any]] = {
        "beta": [1.0],
        "criterion": spec.criterion.values,
        "exits": spec.placements,
        "max_jump": _integers(spec.max_jump),
        "overshoot": spec.overshoot.values,
    }
    for kind in _kinds(spec):
        if "beta" in kind.settings():
            for rule in kind.variants(values):
                yield rule, statistics if rule.compares_thresholds else statistics[:1]


def _kinds(spec: OperatingPointsSpec) -> list[type[Policy]]:
    return [POLICIES[str(name)] for name in spec.policy.values]


def _sources(spec: OperatingPointsSpec, network: TracedNetwork, measures: Sequence[str]) -> Iterator[_Source]:
    exits = network.exit_count
    every = range(1, exits + 1) if not isinstance(spec.start_layer, Choice) else _integers(spec.start_layer)
    for (rule, statistics), dvfs in product(_rules(spec), cast(Sequence[str], spec.dvfs.values)):
        if OperatingPoint(network, "mean_logit", rule, dvfs=dvfs).dvfs != dvfs and "race_to_idle" in spec.dvfs.values:
            continue  # the rule has nothing to go by, and race_to_idle stands in the list anyhow
        layers = every if "start_layer" in rule.settings() else [1]
        there = [layer for layer in layers if _fits(rule.at(start_layer=layer), exits)]
        layers = [layer for layer in there if _possible(spec, network, rule.at(start_layer=layer), dvfs)]
        for statistic in statistics if layers else ():
            point = OperatingPoint(network, statistic, rule, dvfs=dvfs)
            values = None if dvfs == "none" else _values_under_rule(network, point.dvfs, measures)
            sweep = Sweep(network.trace(statistic), network.costs, rule, layers, values)
            yield _Source(network, statistic, dvfs, sweep)


def _fits(policy: Policy, exits: int) -> bool:
    """Whether a network has the exits of the policy: networks may differ in depth."""
    try:
        policy.first_exit(exits)
    except UserError:
        return False
    return True


def _possible(spec: OperatingPointsSpec, network: TracedNetwork, policy: Policy, dvfs: str) -> bool:
    """Whether the parts fit into the memory that is allowed, and the deadline can be kept."""
    memory = spec.constraints.memory
    if memory is not None and network.memory is not None and network.memory.of_policy(policy) > memory:
        return False
    return keeps_deadline(network, policy, dvfs)


def keeps_deadline(network: TracedNetwork, policy: Policy, dvfs: str) -> bool:
    """Whether no walk is late for being slowed down; what a frequency rule has no say in runs as fast as can be."""
    plan = network.frequencies
    if dvfs != "deadline" or plan is None or not (policy.knows_its_end or policy.predicts):
        return True
    return smallest_slack(plan.levels, policy, network.exit_count) <= plan.slack


def _values_under_rule(network: TracedNetwork, dvfs: str, measures: Sequence[str]) -> Any:
    """What each sample costs when the frequency follows a rule: no sum over the parts of the network."""

    def values(walk: Walk, policy: Policy) -> Floats:
        point = OperatingPoint(network, "mean_logit", policy, dvfs=dvfs)
        seconds, joules, _ = point.of_samples(walk)
        under_rule = {"seconds": seconds, "energy": joules}
        columns = [
            under_rule[name] if name in under_rule else network.costs.per_sample(walk, name) for name in measures
        ]
        return np.column_stack(cast(Any, columns))

    return values


def _fixed_points(
    spec: OperatingPointsSpec, networks: Sequence[TracedNetwork], reference_accuracy: float
) -> tuple[list[ExactPoint], Floats]:
    """The points, and their values, of policies without a beta that keep to the constraints."""
    points, values = [], []
    costs = [name for name in spec.objectives if name != "accuracy"]
    kinds = sorted((kind for kind in _kinds(spec) if "beta" not in kind.settings()), key=list(POLICIES.values()).index)
    for network, dvfs in product(networks, cast(Sequence[str], spec.dvfs.values)):
        every_exit = {"exit": range(1, network.exit_count + 1)}
        for policy in chain.from_iterable(kind.variants(every_exit) for kind in kinds):
            if not _possible(spec, network, policy, dvfs):
                continue
            point = OperatingPoint(network, "mean_logit", policy, dvfs=dvfs)
            metrics = point.evaluate()
            exceeded = constraint_values(metrics, spec.constraints.limits, reference_accuracy)
            if all(value <= 0 for value in exceeded.values()):
                points.append(ExactPoint(point, None, None))
                values.append([metrics["accuracy"], *(known_value(metrics, name) for name in costs)])
    return points, np.array(values, dtype=np.float64).reshape(-1, 1 + len(costs))


def check_covered(spec: OperatingPointsSpec) -> None:
    """Refuse what needs the exact front of a space that has none.

    Raises:
        UserError: ``search: exact`` or ``stop: hypervolume_ratio`` is asked of it.
    """
    reason = uncovered(spec)
    if reason and spec.search == "exact":
        raise UserError(f"operating_points.search: exact does not cover this space: {reason}")
    if reason and spec.stop.hypervolume_ratio is not None:
        raise UserError(
            f"operating_points.stop: without an exact front there is no hypervolume_ratio ({reason}): use plateau"
        )
