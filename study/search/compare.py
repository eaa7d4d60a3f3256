"""Policies against each other at equal accuracy: each one's cheapest point on validation, reported on test.

For every traced network and precision, and for every contender (a policy with an exit criterion), all operating points
over every beta and start layer are computed exactly on validation, whatever the study searched; of those that lose at
most so much accuracy against the network without exits, the cheapest is chosen. Test images only report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd

from results.intervals import Bootstrap
from search_spaces.choices import Choice
from search_spaces.spec import OperatingPointsSpec
from study.arrays import Floats
from study.costs.costs import Costs
from study.errors import UserError
from study.fronts.engine_accuracy import prediction_accuracies, prediction_accuracy
from study.policies.replay import replay, tally
from study.search.exact_search import ExactPoint, exact_points, keeps_deadline
from study.search.operating_point import OperatingPoint
from study.search.traced_network import TracedNetwork, reference_network
from study.traces.trace import SplitLogits

Objective = Literal["flops", "energy"]
DROPS = (0.0, 0.005, 0.01, 0.02)
"""Shares of the images that may be lost against the classic network, on validation."""
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Contender:
    """A policy with an exit criterion."""

    policy: str
    criterion: str = "logit"

    @property
    def name(self) -> str:
        """As it stands in tables."""
        return self.policy if self.criterion == "logit" else f"{self.policy}, {self.criterion}"


CONTENDERS = (
    Contender("classic"),
    Contender("static"),
    Contender("hierarchical"),
    Contender("placed"),
    Contender("predictive"),
    *(Contender("hierarchical", criterion) for criterion in ("max_softmax", "entropy", "margin", "patience")),
    Contender("placed", "max_softmax"),
    Contender("placed", "margin"),
    Contender("hierarchical", "oracle"),
)
"""The network without exits, the network cut, the paper's two policies and a chosen subset of exits by the paper's
criterion; confidence rules; and what nobody can know, the first exit that is right (more accurate than the network, it
bounds what loses nothing: a policy that may lose accuracy can be cheaper)."""


def compare(
    spec: OperatingPointsSpec,
    networks: Sequence[TracedNetwork],
    test_logits: Callable[[TracedNetwork], SplitLogits],
    *,
    published: Callable[[TracedNetwork], Costs | None] = lambda network: None,
    drops: Sequence[float] = DROPS,
    objective: Objective = "flops",
    rules: Sequence[str] = (),
) -> Comparison:
    """Compare all contenders on each network at each precision.

    Args:
        spec: statistics, jumps and overshoots that the paper's policies may take; of its constraints all count but the
            one on accuracy.
        networks: networks at precisions. What is lost is counted from a network's own classifier in fp32, or in the
            highest precision that is there.
        test_logits: of a network.
        published: FLOPs of a network as the published program accounts for them, where they are known.
        drops: shares of accuracy that may be lost on validation. The classic network stands at the least that it keeps
            to alone.
        objective: what is to be least.
        rules: of frequency scaling, under which the energy of each point is simulated as well.

    Raises:
        UserError: a cost is not known, a constraint is on a percentile of latencies, or nothing keeps to them.
    """
    for name in ("latency_p50", "latency_p99"):
        if name in spec.constraints.limits:
            raise UserError(
                f"compare: constraints.{name} is no mean over images: --set operating_points.constraints.{name}=null"
            )
    if objective == "energy" and not all(one.costs.holds("energy") for one in networks):
        raise UserError("compare: energies are not known of these networks")
    drops = sorted(set(drops))
    rows: list[dict[str, Any]] = []
    predictions: list[pd.DataFrame] = []
    for network in networks:
        reference = reference_network([one for one in networks if one.weights == network.weights])
        context = _Context(spec, network, reference, objective, max(drops))
        test, classic_test = test_logits(network), test_logits(reference)
        for contender in CONTENDERS:
            choose = context.cheapest_subset if contender.policy == "placed" else context.cheapest
            chosen = [(drop, found) for drop in drops if (found := choose(contender, drop))]
            for drop, found in chosen[:1] if contender.policy == "classic" else chosen:
                where = {"trial_id": network.trial_id, "precision": network.precision, "drop": drop}
                rows.append(
                    {
                        **where,
                        "int8_execution": network.validation.int8_execution,
                        "contender": contender.name,
                        **_validation_row(found, reference),
                        **_test_row(found.point, test, reference, classic_test, published),
                        **_under_rules(found.point, test, reference, rules),
                    }
                )
                if found.point.policy.predicts:
                    trace, chosen_row = network.trace(found.point.statistic, test), found.settings()
                    forecast = prediction_accuracies(trace, [chosen_row["beta"]], max_jump=chosen_row["max_jump"])
                    predictions.append(pd.DataFrame(where, index=forecast.index).join(forecast))
    if not rows:
        raise UserError("compare: no operating point keeps to the constraints of this study")
    table = pd.DataFrame(rows).sort_values(["trial_id", "precision", "drop"], kind="stable", ignore_index=True)
    return Comparison(table, pd.concat(predictions, ignore_index=True) if predictions else pd.DataFrame())


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found."""

    rows: pd.DataFrame
    """One for each network, precision, drop and contender that has a point: what was chosen; on test its accuracy, what
    it lost (with the 95 % interval of the paired difference), its shares of the classic network's FLOPs (true and
    published) and energy; shares of the images that stop at each exit; how often the engine was right. Energy under a
    frequency rule is left out where it slows a walk down, or may, that then misses its deadline."""
    predictions: pd.DataFrame
    """On test, how often the engine is right from each start layer, at the beta of each chosen predictive point;
    columns as of :func:`study.fronts.engine_accuracy.prediction_accuracies`."""


_Chosen = tuple[float, tuple[int, ...], ExactPoint]
"""What a subset of exits costs at least, the subset, and the point that does."""


class _Context:
    """The exact points of one network, each space computed once."""

    def __init__(
        self,
        spec: OperatingPointsSpec,
        network: TracedNetwork,
        reference: TracedNetwork,
        objective: Objective,
        most: float,
    ) -> None:
        self.spec, self.network, self.objective = spec, network, objective
        self.accuracy = reference.classic_accuracy
        self.most = most
        self._points: dict[tuple[Contender, tuple[int, ...] | None], tuple[list[ExactPoint], Floats]] = {}

    def cheapest(self, contender: Contender, drop: float) -> ExactPoint | None:
        """The cheapest point of a contender that loses at most ``drop``."""
        found = self._best(contender, None, drop)
        return found[0] if found else None

    def cheapest_subset(self, contender: Contender, drop: float) -> ExactPoint | None:
        """The same for a subset of exits: the best reached by adding or leaving out whichever exit saves most, as long
        as one does, from none of them, from all behind the best first one, and from the best that was tried before."""
        exits = range(1, self.network.exit_count + 1)

        def cheapest(subsets: Iterable[tuple[int, ...]]) -> _Chosen | None:
            found = [(one[1], subset, one[0]) for subset in subsets if (one := self._best(contender, subset, drop))]
            return min(found, key=lambda one: one[0], default=None)

        tried = [subset for whose, subset in self._points if whose == contender and subset]
        ends = []
        for best in (None, cheapest(tuple(exits[first:]) for first in range(len(exits))), cheapest(tried)):
            while True:
                placed = set(best[1]) if best else set()
                better = cheapest(tuple(sorted(subset)) for exit in exits if (subset := placed ^ {exit}))
                if better is None or (best and better[0] >= best[0]):
                    break
                best = better
            ends += [best] if best else []
        return min(ends, key=lambda one: one[0])[2] if ends else None

    def _best(
        self, contender: Contender, subset: tuple[int, ...] | None, drop: float
    ) -> tuple[ExactPoint, float] | None:
        points, values = self._all(contender, subset)
        enough = np.flatnonzero(values[:, 0] >= self.accuracy - drop - _ROUNDING)
        if not len(enough):
            return None
        place = enough[values[enough, 1].argmin()]
        return points[place], float(values[place, 1])

    def _all(self, contender: Contender, subset: tuple[int, ...] | None) -> tuple[list[ExactPoint], Floats]:
        key = contender, subset
        if key not in self._points:
            space = self.spec.model_copy(
                update={
                    "objectives": ["accuracy", self.objective],
                    "policy": Choice(values=(contender.policy,)),
                    "criterion": Choice(values=(contender.criterion,)),
                    "placements": [list(subset)] if subset else "auto",
                    "dvfs": Choice(values=("none",)),
                    "beta": "auto",
                    "start_layer": "auto",
                    "constraints": self.spec.constraints.model_copy(update={"accuracy_drop": self.most + _ROUNDING}),
                }
            )
            self._points[key] = exact_points(space, [self.network], self.accuracy)
        return self._points[key]


def _validation_row(found: ExactPoint, reference: TracedNetwork) -> dict[str, Any]:
    settings = found.settings()
    names = ("policy", "criterion", "beta", "beta_low", "beta_high", "start_layer", "exits", "max_jump", "overshoot")
    metrics = found.point.evaluate()
    row = {
        **{name: settings.get(name) for name in names},
        "statistic": settings["statistic"] if found.point.policy.compares_thresholds else None,
        "accuracy": metrics["accuracy"],
        "accuracy_drop": reference.classic_accuracy - metrics["accuracy"],
        "flops_share": metrics["flops"] / reference.costs.classic("flops"),
    }
    if found.point.network.costs.holds("energy"):
        row["energy_share"] = metrics["energy_joules"] / reference.costs.classic("energy")
    return row


def _test_row(
    point: OperatingPoint,
    test: SplitLogits,
    reference: TracedNetwork,
    classic_test: SplitLogits,
    published: Callable[[TracedNetwork], Costs | None],
) -> dict[str, Any]:
    network, trace = point.network, point.network.trace(point.statistic, test)
    walk, counted = replay(trace, point.policy), tally(trace, point.policy)
    right = (walk.predictions == trace.labels).astype(np.float64)
    classic = (classic_test.logits[:, -1].argmax(axis=1) == classic_test.labels).astype(np.float64)
    low, high = _bootstrap(len(right)).interval((classic - right)[:, None])
    row: dict[str, Any] = {
        "test_samples": counted.samples,
        "test_accuracy": counted.accuracy,
        "test_drop": float((classic - right).mean()),
        "test_drop_low": float(low[0]),
        "test_drop_high": float(high[0]),
        "test_flops_share": network.costs.mean(counted, "flops") / reference.costs.classic("flops"),
        "test_mean_exit": float(counted.stopped @ np.arange(1, network.exit_count + 2)) / counted.samples,
        "test_heads_run": float(counted.tried.sum()) / counted.samples,
        "test_stopped": (counted.stopped / counted.samples).tolist(),
        "energy_source": network.costs.energy_source,
    }
    if (its := published(network)) is not None and (classics := published(reference)) is not None:
        row["test_flops_published_share"] = its.mean(counted, "flops") / classics.classic("flops")
    if network.costs.holds("energy"):
        row["test_energy_share"] = network.costs.mean(counted, "energy") / reference.costs.classic("energy")
    if point.policy.predicts:
        own = point.settings()
        right_share, asked = prediction_accuracy(trace, own["beta"], own["start_layer"], own["max_jump"])
        row |= {"prediction_accuracy": right_share if asked else None, "predictions": asked}
    return row


def _under_rules(
    point: OperatingPoint, test: SplitLogits, reference: TracedNetwork, rules: Sequence[str]
) -> dict[str, float]:
    """Energy with frequency scaling, as a share of the classic network's over the same period at f_max."""
    row: dict[str, float] = {}
    for rule in rules:
        if not keeps_deadline(point.network, point.policy, rule):
            continue
        scaled = OperatingPoint(point.network, point.statistic, point.policy, dvfs=rule)
        _, joules, _ = scaled.of_samples(replay(point.network.trace(point.statistic, test), point.policy))
        assert joules is not None, "frequency levels have energies"
        row[f"test_energy_share_{rule}"] = float(joules.mean() / reference.cut_energies[-1])
    return row


@cache
def _bootstrap(samples: int) -> Bootstrap:
    return Bootstrap(samples)
