"""Policy families against each other at equal accuracy.

For every traced network at every precision, and for every policy family, all operating points are computed exactly on
validation, whatever the study searched. Of the points that lose at most a given share of accuracy against the network
without exits, the cheapest is chosen.

**Equal accuracy.** The choice holds the bound on the images that chose. A family with more settings fits these images
better, and so loses more on other images than a family with few settings: at one bound the losses are not equal.
Two columns show this. ``unseen_drop`` is the loss on validation images that did not choose, by cross-fitting
(:mod:`study.search.cross_fit`). ``matched_<objective>_share`` is the cost at equal loss: the cost of the cheapest mix
of a family's cross-fitted points, and of the network without exits, that loses exactly the bound (or less) on images
that did not choose. Families are ranked by the matched cost. The intervals of matched costs and savings hold the mix
fixed: they are intervals of mean costs over images. The interval of ``unseen_drop`` tells how well the loss is known.

Test images choose nothing. Their traces are opened only when a report on test is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from results.intervals import mean_interval
from search_spaces.spec import OperatingPointsSpec
from study.arrays import Floats
from study.costs.costs import Costs
from study.errors import UserError
from study.fronts.engine_accuracy import prediction_accuracies, prediction_accuracy
from study.policies.replay import replay, tally
from study.search.cheapest import FAMILIES, ORACLE, CheapestPoints, Objective, PolicyFamily
from study.search.cross_fit import Outcome, around, cheapest_mix, classic_right, cross_fit
from study.search.exact_search import keeps_deadline
from study.search.operating_point import OperatingPoint
from study.search.traced_network import TracedNetwork, reference_network
from study.traces.trace import SplitLogits

_CLASSIC = PolicyFamily("classic")
_SETTINGS = (
    *("policy", "criterion", "beta", "beta_low", "beta_high", "start_layer"),
    *("exits", "max_jump", "overshoot", "statistic"),
)
DROPS = (0.0, 0.005, 0.01, 0.02)
"""Shares of the images that may be lost against the network without exits."""


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`."""

    rows: pd.DataFrame
    """One row for each network, precision, drop and policy family that has a point.

    The chosen point; on validation its accuracy and loss, its shares of the reference network's FLOPs (true and
    published) and energy, the shares of images that stop at each exit, and how often the engine was right. The same
    on test with the prefix ``test_`` (with the 95 % interval of the loss) where test was asked for. ``unseen_drop``
    and ``matched_<objective>_share`` with 95 % intervals (module docstring); ``matched_saving`` is how much less of
    the reference network's cost a family needs than the family ``static`` at the same loss. Under a frequency rule
    the energy is left out for a policy that may miss its deadline.
    """
    predictions: pd.DataFrame
    """How often the engine is right from each start layer, at the beta of each chosen predictive point, by split;
    columns as of :func:`study.fronts.engine_accuracy.prediction_accuracies`."""


def compare(
    spec: OperatingPointsSpec,
    networks: Sequence[TracedNetwork],
    *,
    test_logits: Callable[[TracedNetwork], SplitLogits] | None = None,
    published: Callable[[TracedNetwork], Costs | None] = lambda network: None,
    drops: Sequence[float] = DROPS,
    objective: Objective = "flops",
    rules: Sequence[str] = (),
) -> Comparison:
    """Compare all policy families on each network at each precision.

    Args:
        spec: statistics, jumps, overshoots and constraints; the constraint on accuracy is replaced by ``drops``.
        networks: traced networks at precisions. The reference of a network is the same network in fp32, or, without
            fp32, at its most accurate precision.
        test_logits: gives the test trace of a network; None: nothing is reported on test.
        published: FLOPs of a network as the published program counts them, where they are known.
        drops: shares of accuracy that may be lost on validation. The family ``classic`` has one row, at the first
            bound that the network without exits keeps.
        objective: the cost to minimise.
        rules: frequency rules under which the energy of each chosen point is simulated.

    Raises:
        UserError: a cost is not known, a constraint is on a percentile of latencies, or no point keeps the constraints.
    """
    for name in ("latency_p50", "latency_p99"):
        if name in spec.constraints.limits:
            raise UserError(
                f"compare: constraints.{name} is not a mean over images: --set operating_points.constraints.{name}=null"
            )
    if objective == "energy" and not all(one.costs.holds("energy") for one in networks):
        raise UserError("compare: the energies of these networks are not known")
    drops = sorted(set(drops))
    rows: list[dict[str, Any]] = []
    predictions: list[pd.DataFrame] = []
    for network in networks:
        reference = reference_network([one for one in networks if one.weights == network.weights])
        splits = {"validation": (network.validation, reference.validation)}
        if test_logits is not None:
            splits["test"] = (test_logits(network), test_logits(reference))
        unseen = cross_fit(spec, network, reference, FAMILIES, around(drops), objective)
        points = CheapestPoints(spec, network, reference.classic_accuracy, drops, objective)
        for family in FAMILIES:
            chosen = list(points.choose(family).items())
            for drop, point in chosen[:1] if family.policy == "classic" else chosen:
                where = {"trial_id": network.trial_id, "precision": network.precision, "drop": drop}
                settings = point.settings()
                row: dict[str, Any] = {
                    **where,
                    "int8_execution": network.validation.int8_execution,
                    "family": family.name,
                    **{name: settings[name] for name in _SETTINGS},
                    **_on_unseen_images(unseen, family, drop, objective),
                }
                for name, (split, classic) in splits.items():
                    row |= _on_split(name, point, split, reference, classic, published, rules)
                    if point.policy.predicts:
                        trace = network.trace(point.statistic, split)
                        right = prediction_accuracies(trace, [row["beta"]], max_jump=row["max_jump"])
                        predictions.append(pd.DataFrame({**where, "split": name}, index=right.index).join(right))
                rows.append(row)
    if not rows:
        raise UserError("compare: no operating point keeps the constraints of this study")
    table = pd.DataFrame(rows).sort_values(["trial_id", "precision", "drop"], kind="stable", ignore_index=True)
    return Comparison(table, pd.concat(predictions, ignore_index=True) if predictions else pd.DataFrame())


def best_families(rows: pd.DataFrame, objective: Objective) -> pd.DataFrame:
    """The rows of the families with the least matched cost: one for each network, precision and drop.

    The oracle is left out. A family without a matched cost is left out.
    """
    real = rows[(rows["family"] != ORACLE) & rows[f"matched_{objective}_share"].notna()]
    least = real.groupby(["trial_id", "precision", "drop"], sort=False)[f"matched_{objective}_share"].idxmin()
    return real.loc[least]


def _on_unseen_images(
    outcomes: Mapping[tuple[PolicyFamily, float], Outcome], family: PolicyFamily, drop: float, objective: Objective
) -> dict[str, float | None]:
    """The columns of a family at a bound; None where a half of the images has no point within the bound."""

    def mix(wanted: PolicyFamily) -> Outcome | None:
        return cheapest_mix([one for (whose, _), one in outcomes.items() if whose in (wanted, _CLASSIC)], drop)

    own, mixed, static = outcomes.get((family, drop)), mix(family), mix(PolicyFamily("static"))
    return {
        **_mean("unseen_drop", None if own is None else own.loss),
        **_mean(f"matched_{objective}_share", None if mixed is None else mixed.cost),
        **_mean("matched_saving", None if mixed is None or static is None else static.cost - mixed.cost),
    }


def _mean(name: str, values: Floats | None) -> dict[str, float | None]:
    """The mean of ``values [N]`` and its 95 % interval, as columns."""
    if values is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = mean_interval(values[:, None])
    return {name: float(values.mean()), f"{name}_low": float(low[0]), f"{name}_high": float(high[0])}


def _on_split(
    name: str,
    point: OperatingPoint,
    split: SplitLogits,
    reference: TracedNetwork,
    reference_split: SplitLogits,
    published: Callable[[TracedNetwork], Costs | None],
    rules: Sequence[str],
) -> dict[str, Any]:
    """Accuracy, loss and costs of a point on a split, as columns; on test the names begin with ``test_``."""
    network, trace = point.network, point.network.trace(point.statistic, split)
    walk, counted = replay(trace, point.policy), tally(trace, point.policy)
    loss = classic_right(reference_split) - (walk.predictions == trace.labels).astype(np.float64)
    row: dict[str, Any] = {
        "samples": counted.samples,
        "accuracy": counted.accuracy,
        "flops_share": network.costs.mean(counted, "flops") / reference.costs.classic("flops"),
        "mean_exit": float(counted.stopped @ np.arange(1, network.exit_count + 2)) / counted.samples,
        "heads_run": float(counted.tried.sum()) / counted.samples,
        "stopped": (counted.stopped / counted.samples).tolist(),
        "energy_source": network.costs.energy_source,
    }
    if (own := published(network)) is not None and (classic := published(reference)) is not None:
        row["flops_published_share"] = own.mean(counted, "flops") / classic.classic("flops")
    if network.costs.holds("energy"):
        row["energy_share"] = network.costs.mean(counted, "energy") / reference.costs.classic("energy")
    for rule in rules:
        if keeps_deadline(network, point.policy, rule):
            _, joules, _ = OperatingPoint(network, point.statistic, point.policy, dvfs=rule).of_samples(walk)
            assert joules is not None, "frequency levels have energies"
            row[f"energy_share_{rule}"] = float(joules.mean() / reference.cut_energies[-1])
    if point.policy.predicts:
        settings = point.policy.to_row()
        right, asked = prediction_accuracy(trace, settings["beta"], settings["start_layer"], settings["max_jump"])
        row |= {"prediction_accuracy": right if asked else None, "predictions": asked}
    if name == "validation":
        return {**row, "accuracy_drop": reference.classic_accuracy - counted.accuracy}
    row |= _mean("drop", loss)
    # A source of energies is the same for all splits.
    return {name if name == "energy_source" else f"test_{name}": value for name, value in row.items()}
