"""The exact front of a whole search space, computed without a search: the best that phase 2 can find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from typing import Any, cast

import numpy as np

from results.pareto import non_dominated
from search_spaces.choices import Choice
from search_spaces.spec import OperatingPointsSpec
from study.arrays import Floats
from study.costs.costs import Measure
from study.costs.model.dvfs import smallest_slack
from study.errors import UserError
from study.fronts.exact import Limits, front_of_sweeps
from study.fronts.priced_paths import PRICES
from study.fronts.sweep import Sweep
from study.policies.base import Policy
from study.policies.criteria import Criterion
from study.policies.policies import POLICIES
from study.policies.replay import Walk
from study.policies.thresholds import Statistic
from study.search.operating_point import OperatingPoint, effective_rule
from study.search.space import judge, known_value
from study.search.traced_network import TracedNetwork

MEASURES = {"flops": "flops", "bitops": "bitops", "energy": "energy", "latency_mean": "seconds"}
"""Objective or constraint -> measure, for quantities that are means over samples."""


@dataclass(frozen=True)
class Uncovered:
    """Why the front of a search space cannot be computed exactly."""

    key: str
    """The key of ``operating_points`` that must change."""
    reason: str
    remedy: str
    """A change of the study file under which the front can be computed: ``KEY=VALUE``."""

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


def uncovered(spec: OperatingPointsSpec) -> Uncovered | None:
    """Why the front of a search space cannot be computed exactly; None where it can."""
    if spec.beta == "per_exit":
        return Uncovered("beta", "per_exit has one dimension for each exit", "operating_points.beta=auto")
    kinds = _kinds(spec)
    for kind in kinds:
        if _is_swept(kind) and not kind.has_compiled_form():
            return Uncovered("policy", f"{kind.name} has no compiled form", "operating_points.policy=predictive")
    if spec.placements == "auto" and any("exits" in kind.settings() and not kind.fitted for kind in kinds):
        remedy = "'operating_points.placements=[[4, 8]]', or another policy"
        return Uncovered("placements", "auto has two to the power of the number of exits", remedy)
    for key, names in (("objectives", spec.objectives), ("constraints", spec.constraints.limits)):
        for name in names:
            if name in ("latency_p50", "latency_p99"):
                remedy = "'operating_points.objectives=[accuracy, latency_mean]'"
                if key == "constraints":
                    remedy = f"operating_points.constraints.{name}=null"
                return Uncovered(key, f"{name} is not a mean over images, latency_mean is", remedy)
    return None


def exact_points(
    spec: OperatingPointsSpec, networks: Sequence[TracedNetwork], reference_accuracy: float
) -> tuple[list[OperatingPoint], Floats]:
    """The non-dominated operating points of a search space on validation, cheapest first.

    The beta of each policy lies inside the interval of betas that give the point.

    Args:
        spec: the space; :func:`uncovered` must be None for it.
        networks: to choose from.
        reference_accuracy: the accuracy that a limit on the drop of accuracy counts from.

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
            network.costs.parts(measure)  # refuses a cost that the network's costs do not hold
    least = reference_accuracy - limits["accuracy_drop"] if "accuracy_drop" in limits else 0.0
    fixed, values = _fixed_points(spec, networks, reference_accuracy)
    # Of a swept point an operating point is made only if no other point dominates it.
    found: list[OperatingPoint | Callable[[], OperatingPoint]] = list(fixed)
    sources = [source for network in networks for source in _sources(spec, network, measures)]
    for betas in _beta_ranges(spec) if sources else []:
        front = front_of_sweeps([source.sweep for source in sources], ["accuracy", *wanted], Limits(betas, least, most))
        rows = zip(*(front[name] for name in ("sweep", "start_layer", "beta_low", "beta_high")), strict=True)
        found += [partial(sources[place].point, layer, (low, high), betas) for place, layer, low, high in rows]
        values = np.concatenate([values, front[["accuracy", *wanted]].to_numpy()])
    _, distinct = np.unique(values, axis=0, return_index=True)
    best = distinct[non_dominated(values[distinct], maximize=[True] + [False] * len(wanted))]
    cheapest_first = sorted(best.tolist(), key=lambda place: tuple(values[place, 1:]))
    best_found = [found[place] for place in cheapest_first]
    points = [one if isinstance(one, OperatingPoint) else one() for one in best_found]
    columns = [["accuracy", *wanted].index(MEASURES.get(name, name)) for name in spec.objectives]
    return points, values[cheapest_first][:, columns]


@dataclass(frozen=True, eq=False)
class _Source:
    """A sweep, with the settings of phase 2 that the sweep stands for."""

    network: TracedNetwork
    statistic: Statistic | None
    dvfs: str
    sweep: Sweep

    def point(self, layer: int, interval: tuple[float, float], allowed: tuple[float, float]) -> OperatingPoint:
        """A point of the sweep that an interval of betas gives, at a beta that the search space allows."""
        low, high = max(interval[0], allowed[0]), min(interval[1], allowed[1])
        policy = self.sweep.policy(_inside(low, high) if low < high else high, int(layer))
        ends = (low, high) if low < high < _LARGEST else interval
        return OperatingPoint(self.network, self.statistic, policy, None, self.dvfs, *ends)


_LARGEST = float(np.finfo(np.float64).max)


def _inside(low: float, high: float) -> float:
    """The geometric mean of the ends of an interval of betas: live logits differ from traced ones in their last bits.

    Half the upper end where the lower end is 0; twice the lower end where the interval has no upper end.
    """
    if high >= _LARGEST:
        return low * 2 if low > 0 else 1.0
    middle = float(np.sqrt(low) * np.sqrt(high)) if low > 0 else high / 2
    return middle if low < middle <= high else high


def _beta_ranges(spec: OperatingPointsSpec) -> list[tuple[float, float]]:
    if not isinstance(spec.beta, Choice):
        return [(0.0, _LARGEST)]  # a study cannot ask for an infinite beta
    if spec.beta.is_range:
        return [(float(spec.beta.low), float(spec.beta.high))]
    return [(float(cast(float, value)), float(cast(float, value))) for value in spec.beta.values]


def _integers(choice: Choice) -> list[int]:
    if choice.is_range:
        return list(range(int(choice.low), int(choice.high) + 1))
    return [int(cast(int, value)) for value in choice.values]


def _swept_policies(spec: OperatingPointsSpec) -> Iterator[tuple[Policy, Sequence[Statistic | None]]]:
    """Every policy of the space that has a beta, at beta 1, with the statistics that its decisions depend on."""
    statistics = cast(Sequence[Statistic], spec.statistic.values)
    values: dict[str, Sequence[Any]] = {
        "beta": [1.0],
        "criterion": spec.criterion.values,
        "exits": spec.placements,
        "max_jump": _integers(spec.max_jump),
        "overshoot": spec.overshoot.values,
    }
    for kind in _kinds(spec):
        if _is_swept(kind):
            for policy in kind.variants(values):
                yield policy, statistics if policy.compares_thresholds else (None,)


def _is_swept(kind: type[Policy]) -> bool:
    """Whether a sweep over beta gives the points of a policy."""
    return "beta" in kind.settings() and not kind.fitted


def _kinds(spec: OperatingPointsSpec) -> list[type[Policy]]:
    return [POLICIES[str(name)] for name in spec.policy.values]


def _sources(spec: OperatingPointsSpec, network: TracedNetwork, measures: Sequence[str]) -> Iterator[_Source]:
    exits = network.exit_count
    every = range(1, exits + 1) if not isinstance(spec.start_layer, Choice) else _integers(spec.start_layer)
    for (policy, statistics), dvfs in product(_swept_policies(spec), cast(Sequence[str], spec.dvfs.values)):
        effective = effective_rule(policy, dvfs)
        if effective != dvfs and effective in spec.dvfs.values:
            continue  # the same points come with the effective rule itself
        layers = every if "start_layer" in policy.settings() else [1]
        there = [layer for layer in layers if _fits(policy.at(start_layer=layer), exits)]
        layers = [layer for layer in there if is_possible(spec, network, policy.at(start_layer=layer), dvfs)]
        for statistic in statistics if layers else ():
            values = None if dvfs == "none" else _values_under_rule(network, effective, measures)
            sweep = Sweep(network.trace(statistic), network.costs, policy, layers, values)
            yield _Source(network, statistic, dvfs, sweep)


def _fits(policy: Policy, exits: int) -> bool:
    """Whether a network has the exits of the policy: networks may differ in depth."""
    try:
        policy.first_exit(exits)
    except UserError:
        return False
    return True


def is_possible(spec: OperatingPointsSpec, network: TracedNetwork, policy: Policy, dvfs: str) -> bool:
    """Whether a policy keeps the limit on memory, and its deadline, at every beta."""
    memory = spec.constraints.memory
    if memory is not None and network.memory is not None and network.memory.of_policy(policy) > memory:
        return False
    return keeps_deadline(network, policy, dvfs)


def keeps_deadline(network: TracedNetwork, policy: Policy, dvfs: str) -> bool:
    """Whether no image is late under a frequency rule; a policy that no rule slows down is never late."""
    plan = network.frequencies
    if plan is None or effective_rule(policy, dvfs) != "deadline":
        return True
    return smallest_slack(plan.levels, policy, network.exit_count) <= plan.slack


def _values_under_rule(network: TracedNetwork, dvfs: str, measures: Sequence[str]) -> Any:
    """A function that gives the costs of each sample of a walk under a frequency rule.

    Under a rule the cost of a walk is not the sum of the costs of its parts.
    """

    def values(walk: Walk, policy: Policy) -> Floats:
        seconds, joules, _ = OperatingPoint(network, None, policy, dvfs=dvfs).of_samples(walk)
        under_rule = {"seconds": seconds, "energy": joules}
        columns = [
            under_rule[name] if name in under_rule else network.costs.per_sample(walk, name) for name in measures
        ]
        return np.column_stack(cast(Any, columns))

    return values


def _fixed_points(
    spec: OperatingPointsSpec, networks: Sequence[TracedNetwork], reference_accuracy: float
) -> tuple[list[OperatingPoint], Floats]:
    """The points of policies without a sweep that keep the constraints, and their values ``[P, M]``."""
    points, values = [], []
    costs = [name for name in spec.objectives if name != "accuracy"]
    kinds = sorted((kind for kind in _kinds(spec) if not _is_swept(kind)), key=list(POLICIES.values()).index)
    for network, dvfs in product(networks, cast(Sequence[str], spec.dvfs.values)):
        every_exit = {"exit": range(1, network.exit_count + 1)}
        counted = ((None, one) for kind in kinds if not kind.fitted for one in kind.variants(every_exit))
        for statistic, policy in chain(counted, _fitted_policies(spec, network, kinds)):
            if not is_possible(spec, network, policy, dvfs):
                continue
            point = OperatingPoint(network, statistic, policy, dvfs=dvfs)
            judged = judge(point, spec.constraints.limits, reference_accuracy)
            if judged["feasible"]:
                points.append(point)
                values.append([known_value(judged, name) for name in ("accuracy", *costs)])
    return points, np.array(values, dtype=np.float64).reshape(-1, 1 + len(costs))


def _fitted_policies(
    spec: OperatingPointsSpec, network: TracedNetwork, kinds: Sequence[type[Policy]]
) -> Iterator[tuple[Statistic | None, Policy]]:
    """Every fitted policy of the space at every price of :func:`prices_of`, with the statistic of its thresholds."""
    for kind in (kind for kind in kinds if kind.fitted):
        own = cast(Sequence[Criterion], spec.criterion.values) if "criterion" in kind.settings() else (kind.criterion,)
        for criterion in own:
            statistics = cast(Sequence[Statistic], spec.statistic.values) if criterion == "logit" else (None,)
            for statistic in statistics:
                for policy in fitted_policies(spec, network, kind, criterion, statistic, prices_of(spec)):
                    yield statistic, policy


def prices_of(spec: OperatingPointsSpec) -> Sequence[float]:
    """The prices of an exact front: the values of the space, or 61 prices spread evenly over its range."""
    if not isinstance(spec.price, Choice):
        return PRICES
    if not spec.price.is_range:
        return [float(cast(float, price)) for price in spec.price.values]
    spread = np.geomspace if spec.price.log else np.linspace
    return [float(price) for price in spread(spec.price.low, spec.price.high, len(PRICES))]


def fitted_policies(
    spec: OperatingPointsSpec,
    network: TracedNetwork,
    kind: type[Policy],
    criterion: Criterion,
    statistic: Statistic | None,
    prices: Sequence[float],
) -> Sequence[Policy]:
    """Policies fitted to the network's calibration split. The first objective that is a cost has the price."""
    measure = next((MEASURES[name] for name in spec.objectives if name in MEASURES), "flops")
    return network.fitted(kind, prices, criterion=criterion, statistic=statistic, measure=cast(Measure, measure))


def check_covered(spec: OperatingPointsSpec) -> None:
    """Refuse a study that needs the exact front of a space whose front cannot be computed exactly.

    Raises:
        UserError: the study asks for ``search: exact`` or ``stop: hypervolume_ratio``.
    """
    reason = uncovered(spec)
    if reason and spec.search == "exact":
        raise UserError(f"operating_points.search: exact does not cover this space: {reason}")
    if reason and spec.stop.hypervolume_ratio is not None:
        raise UserError(
            f"operating_points.stop: without an exact front there is no hypervolume_ratio ({reason}): use plateau"
        )
