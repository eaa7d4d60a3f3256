"""Policy families against each other at equal accuracy.

For every traced network at every precision, and for every policy family, all operating points are computed exactly on
validation, whatever the study searched. Policies that are fitted are fitted to the calibration images, and their prices
are chosen on validation. Of the points that lose at most a given share of accuracy against the network without exits,
the cheapest is chosen.

**Equal accuracy.** The choice holds the bound on the images that chose. A family with more settings fits these images
better, and so loses more on other images than a family with few settings: at one bound the losses are not equal.
Three columns show this. ``unseen_drop`` is the loss on validation images that did not choose, by cross-fitting
(:mod:`study.search.cross_fit`). ``matched_<objective>_share`` is the cost at equal loss on images that did not choose:
that of the curve through the cross-fitted points of several bounds, at a loss of exactly the bound
(:mod:`study.fronts.matched_cost`). ``matched_test_<objective>_share`` is the same on test: there the curve goes through
the points of the family's front on validation, replayed on test. Families are ranked by the matched cost on validation.
All intervals of matched costs and savings are bootstrap intervals over the images: the settings stay as they are.

Test images choose nothing. Their traces are opened only when a report on test is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import pandas as pd

from results.intervals import mean_interval
from search_spaces.spec import OperatingPointsSpec
from study.arrays import Floats
from study.costs.costs import Costs
from study.errors import UserError
from study.fronts.engine_accuracy import prediction_accuracies, prediction_accuracy
from study.fronts.matched_cost import middle_95, resamples
from study.fronts.ranking import auroc, should_stop
from study.policies.criteria import Criterion
from study.policies.decision_table import table_for
from study.policies.policies import Classic, Hierarchical
from study.policies.replay import replay, tally
from study.policies.thresholds import Statistic
from study.search.cheapest import FAMILIES, ORACLE, FamilyFront, Objective, PolicyFamily, family_front
from study.search.cross_fit import MatchedCosts, Outcome, around, classic_right, cross_fit, outcome
from study.search.exact_search import keeps_deadline
from study.search.operating_point import COLUMNS, OperatingPoint
from study.search.smaller import SMALLER_COLUMNS, Backbone, smaller_rows
from study.search.traced_network import TracedNetwork, reference_network
from study.traces.trace import SplitLogits

_CLASSIC, _STATIC = PolicyFamily("classic"), PolicyFamily("static")
_SETTINGS = (
    *("policy", "criterion", "beta", "betas", "beta_low", "beta_high", "start_layer"),
    *("exits", "max_jump", "overshoot", "statistic", "price", "rule"),
)
DROPS = (0.0, 0.005, 0.01, 0.02)
"""Shares of the images that may be lost against the network without exits."""
RANKED: tuple[Criterion, ...] = ("margin", "max_softmax", "logit")
"""The criteria whose ranking of images is told."""
_BEYOND = 0.01
"""How much farther than the loosest bound, and than it again, the curves on test go: losses on test are larger."""
_ON_CURVE = 40
"""Points of a curve on test."""


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`."""

    rows: pd.DataFrame
    """One row for each network, precision, drop and policy family that has a point.

    The chosen point; on validation its accuracy and loss, its shares of the reference network's FLOPs (true and
    published) and energy, the shares of images that stop at each exit, and how often the engine was right. The same
    on test with the prefix ``test_`` (with the 95 % interval of the loss) where test was asked for. ``unseen_drop``,
    ``matched_<objective>_share`` and ``matched_test_<objective>_share`` with 95 % intervals (module docstring);
    ``matched_saving`` is how much less of the reference network's cost a family needs than the family ``static`` at
    the same loss. Under a frequency rule the energy is left out for a policy that may miss its deadline.
    """
    predictions: pd.DataFrame
    """How often the engine is right from each start layer, at the beta of each chosen predictive point, by split;
    columns as of :func:`study.fronts.engine_accuracy.prediction_accuracies`."""
    ranking: pd.DataFrame
    """For each network, precision and exit, on validation: ``accuracy``; ``should_stop``, the share of images that
    should stop there (:mod:`study.fronts.ranking`); and ``auroc_<criterion>``, the chance that the confidence of such
    an image is higher than that of another image (empty where there are no others)."""
    smaller: pd.DataFrame
    """Smaller networks of the run as they stand and with their exits; columns
    :data:`study.search.smaller.SMALLER_COLUMNS`."""


def compare(
    spec: OperatingPointsSpec,
    networks: Sequence[TracedNetwork],
    *,
    test_logits: Callable[[TracedNetwork], SplitLogits] | None = None,
    published: Callable[[TracedNetwork], Costs | None] = lambda network: None,
    backbones: Sequence[Backbone] = (),
    names: Mapping[str, str] | None = None,
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
        backbones: the networks without exits that phase 1 trained on the same images.
        names: trial -> what its network is, for the table ``smaller``.
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
    published = cache(published)
    rows: list[dict[str, Any]] = []
    predictions: list[pd.DataFrame] = []
    references = {one.weights: reference_network([o for o in networks if o.weights == one.weights]) for one in networks}
    beyond = 2 * drops[-1] + _BEYOND
    lowest = min(one.classic_accuracy for one in references.values()) - beyond
    fronts = {
        (network, family): family_front(spec, network, family, objective, lowest)
        for network in networks
        for family in FAMILIES
    }
    for network in networks:
        reference = references[network.weights]
        splits = {"validation": (network.validation, reference.validation)}
        if test_logits is not None:
            splits["test"] = (test_logits(network), test_logits(reference))
        unseen = cross_fit(spec, network, reference, FAMILIES, around(drops), objective)
        matched = {"": _matched(unseen, drops)}
        if "test" in splits:
            least = reference.classic_accuracy - beyond
            curves = {
                (family, float(place)): outcome(point, splits["test"][0], reference, splits["test"][1], objective)
                for family in FAMILIES
                for place, point in enumerate(fronts[network, family].spread(_ON_CURVE, least))
            }
            matched["test_"] = _matched(curves, drops)
        for family in FAMILIES:
            for place, drop in enumerate(drops):
                point = fronts[network, family].cheapest(reference.classic_accuracy, drop)
                if point is None:
                    continue
                where = {"trial_id": network.trial_id, "precision": network.precision, "drop": drop}
                settings = point.settings()
                own = unseen.get((family, drop))
                row: dict[str, Any] = {
                    **where,
                    "int8_execution": network.validation.int8_execution,
                    "family": family.name,
                    **{name: settings[name] for name in _SETTINGS},
                    **_mean("unseen_drop", None if own is None else own.loss),
                }
                for prefix, costs in matched.items():
                    row |= _matched_columns(costs, family, place, f"matched_{prefix}{objective}_share")
                row |= _saving(matched[""], family, place)
                for name, (split, classic) in splits.items():
                    row |= _on_split(name, point, split, reference, classic, published, rules)
                    if point.policy.predicts:
                        trace = network.trace(point.statistic, split)
                        right = prediction_accuracies(trace, [row["beta"]], max_jump=row["max_jump"])
                        predictions.append(pd.DataFrame({**where, "split": name}, index=right.index).join(right))
                rows.append(row)
                if family == _CLASSIC:
                    break
    if not rows:
        raise UserError("compare: no operating point keeps the constraints of this study")
    table = pd.DataFrame(rows).sort_values(["trial_id", "precision", "drop"], kind="stable", ignore_index=True)
    return Comparison(
        table,
        pd.concat(predictions, ignore_index=True) if predictions else pd.DataFrame(),
        pd.concat([_ranking(one, spec) for one in networks], ignore_index=True),
        _smaller(list(references.values()), fronts, backbones, names or {}, test_logits, drops, objective),
    )


def _matched(
    outcomes: Mapping[tuple[PolicyFamily, float], Outcome], drops: Sequence[float]
) -> dict[PolicyFamily, MatchedCosts]:
    """The costs of each family at each loss; the network without exits belongs to every family's curve."""
    drawn = resamples(len(next(iter(outcomes.values())).loss)) if outcomes else np.empty((0, 0))
    found = {}
    for family in {family: None for family, _ in outcomes}:
        curve = [one for (whose, _), one in outcomes.items() if whose == family]
        classic = [one for (whose, _), one in outcomes.items() if whose == _CLASSIC != family][:1]
        found[family] = MatchedCosts.of([*curve, *classic], drops, drawn)
    return found


def _matched_columns(
    costs: Mapping[PolicyFamily, MatchedCosts], family: PolicyFamily, place: int, name: str
) -> dict[str, float | None]:
    if family not in costs:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    own = costs[family]
    low, high = middle_95(own.draws[:, place])
    return {name: float(own.mean[place]), f"{name}_low": float(low), f"{name}_high": float(high)}


def _saving(costs: Mapping[PolicyFamily, MatchedCosts], family: PolicyFamily, place: int) -> dict[str, float | None]:
    """How much less a family costs than a cut, with the interval of the difference on the same images."""
    pair = [costs.get(_STATIC), costs.get(family)]
    if None in pair:
        return _matched_columns({}, family, place, "matched_saving")
    static, own = cast(list[MatchedCosts], pair)
    saved = MatchedCosts(static.mean - own.mean, static.draws - own.draws)
    return _matched_columns({family: saved}, family, place, "matched_saving")


def _ranking(network: TracedNetwork, spec: OperatingPointsSpec) -> pd.DataFrame:
    """The rows of the table ``ranking`` of one network."""
    trace = network.trace(cast(Statistic, spec.statistic.values[0]))
    positive = should_stop(trace)
    scores = {criterion: table_for(trace, Hierarchical(1.0, 1, criterion)).stop for criterion in RANKED}
    return pd.DataFrame(
        {
            "trial_id": network.trial_id,
            "precision": network.precision,
            "exit": np.arange(1, network.exit_count + 1),
            "accuracy": trace.exit_accuracies[:-1],
            "should_stop": positive.mean(axis=0),
            **{f"auroc_{criterion}": auroc(own, positive) for criterion, own in scores.items()},
        }
    )


def _smaller(
    references: Sequence[TracedNetwork],
    fronts: Mapping[tuple[TracedNetwork, PolicyFamily], FamilyFront],
    backbones: Sequence[Backbone],
    names: Mapping[str, str],
    test_logits: Callable[[TracedNetwork], SplitLogits] | None,
    drops: Sequence[float],
    objective: Objective,
) -> pd.DataFrame:
    """The rows of the table ``smaller``: backbones as they stand, then traced networks as they stand and with exits."""
    parts: list[pd.DataFrame] = []
    traced = list(dict.fromkeys(network for network, _ in fronts))
    real = [family for family in FAMILIES if family.name != ORACLE]
    for reference in dict.fromkeys(references):
        flops = reference.costs.classic("flops")
        costs = {"flops": flops}
        if reference.costs.holds("energy"):
            costs["energy"] = reference.costs.classic("energy")
        parts.append(smaller_rows(reference.trial_id, reference.classic_accuracy, costs, backbones))
        rows: list[dict[str, Any]] = []
        for network in traced:
            if not network.costs.classic("flops") < flops * (1 - 1e-9):
                continue
            standing = OperatingPoint(network, None, Classic())
            found: dict[tuple[str, float | None], OperatingPoint] = {("classic", None): standing}
            for drop in drops:
                points = {one.name: fronts[network, one].cheapest(reference.classic_accuracy, drop) for one in real}
                kept = {name: point for name, point in points.items() if point is not None}
                if kept:
                    name = min(kept, key=lambda one: kept[one].evaluate()[COLUMNS[objective]])
                    found[name, drop] = kept[name]
            for (name, bound), point in found.items():
                row: dict[str, Any] = {
                    "trial_id": reference.trial_id,
                    "smaller_id": network.trial_id,
                    "smaller": names.get(network.trial_id, network.trial_id),
                    "precision": network.precision,
                    "family": name,
                    "drop": bound,
                    **_against(point, network.validation, reference, reference.validation),
                }
                if test_logits is not None:
                    on_test = _against(point, test_logits(network), reference, test_logits(reference))
                    row |= {f"test_{one}".replace("accuracy_drop", "drop"): value for one, value in on_test.items()}
                rows.append(row)
        parts.append(pd.DataFrame(rows, columns=list(SMALLER_COLUMNS)))
    filled = [part for part in parts if not part.empty]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(SMALLER_COLUMNS))


def _against(
    point: OperatingPoint, split: SplitLogits, reference: TracedNetwork, reference_split: SplitLogits
) -> dict[str, float | None]:
    """Accuracy, loss and costs of a point against another network, on a split."""
    counted = tally(point.network.trace(point.statistic, split), point.policy)
    own, classic = point.network.costs_of(point.policy), reference.costs
    energies = own.holds("energy") and classic.holds("energy")
    return {
        "accuracy": counted.accuracy,
        "accuracy_drop": float(classic_right(reference_split).mean()) - counted.accuracy,
        "flops_share": own.mean(counted, "flops") / classic.classic("flops"),
        "energy_share": own.mean(counted, "energy") / classic.classic("energy") if energies else None,
    }


def best_families(rows: pd.DataFrame, objective: Objective) -> pd.DataFrame:
    """The rows of the families with the least matched cost: one for each network, precision and drop.

    The oracle is left out. A family without a matched cost is left out.
    """
    real = rows[(rows["family"] != ORACLE) & rows[f"matched_{objective}_share"].notna()]
    least = real.groupby(["trial_id", "precision", "drop"], sort=False)[f"matched_{objective}_share"].idxmin()
    return real.loc[least]


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
    costs = network.costs_of(point.policy)
    walk, counted = replay(trace, point.policy), tally(trace, point.policy)
    loss = classic_right(reference_split) - (walk.predictions == trace.labels).astype(np.float64)
    row: dict[str, Any] = {
        "samples": counted.samples,
        "accuracy": counted.accuracy,
        "flops_share": costs.mean(counted, "flops") / reference.costs.classic("flops"),
        "mean_exit": float(counted.stopped @ np.arange(1, network.exit_count + 2)) / counted.samples,
        "heads_run": float(counted.tried.sum()) / counted.samples,
        "stopped": (counted.stopped / counted.samples).tolist(),
        "energy_source": network.costs.energy_source,
    }
    if (own := published(network)) is not None and (classic := published(reference)) is not None:
        row["flops_published_share"] = own.mean(counted, "flops") / classic.classic("flops")
    if costs.holds("energy"):
        row["energy_share"] = costs.mean(counted, "energy") / reference.costs.classic("energy")
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
