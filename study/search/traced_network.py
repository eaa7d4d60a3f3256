"""Traced networks: what phase 2 knows of a trained network, without images and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from results.summary import reference_position
from study.arrays import Floats, Integers
from study.checkpoints.description import WeightsId
from study.costs.costs import Costs, Measure
from study.costs.memory import Memory
from study.costs.model.dvfs import LevelCosts, Rule, Simulated, simulate
from study.errors import UserError
from study.fronts.fitted_policies import FITTERS, Fit
from study.networks.precisions import Precision
from study.policies.base import Policy
from study.policies.criteria import Criterion
from study.policies.decision_table import table_for, take_tables
from study.policies.policies import Classic, Hierarchical, Static
from study.policies.replay import Walk, replay
from study.policies.thresholds import Statistic, thresholds_from_logits
from study.traces.trace import SplitLogits, Trace

if TYPE_CHECKING:
    from study.costs.flops import NetworkWork


@dataclass(frozen=True, kw_only=True, eq=False)
class Frequencies:
    """The settings of the simulation of frequency scaling for one network."""

    levels: LevelCosts
    slack: float
    """How much later than the classic network at f_max an answer may come, as a share of the classic network's time."""
    period: float
    """Seconds from one image to the next, the same for all networks. The device is idle for the rest of a period."""


@dataclass(frozen=True, eq=False)
class TracedNetwork:
    """The traces and the costs of a trained network at one precision."""

    weights: WeightsId
    costs: Costs
    calibration: SplitLogits
    validation: SplitLogits
    precision: Precision = "fp32"
    work: NetworkWork | None = None
    """Counted work of the network's parts; None where it is not known: the memory is then not known either."""
    published: tuple[Floats, Floats] | None = None
    """FLOPs of segments and heads as the published program counts them."""
    frequencies: Frequencies | None = None
    """None where frequency scaling is not simulated."""
    _traces: dict[tuple[SplitLogits, Statistic], Trace] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _scores: dict[object, list[Floats]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _fits: dict[object, Fit] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def trial_id(self) -> str:
        """The trial that trained the network."""
        return self.weights.trial_id

    @property
    def exit_count(self) -> int:
        """E."""
        return self.costs.exit_count

    @property
    def identity(self) -> list[object]:
        """All values that decide the metrics of the network's operating points, as JSON-able values."""
        plan = self.frequencies
        frequencies: list[object] = []
        if plan is not None:
            levels = plan.levels
            frequencies = [
                np.asarray(levels.megahertz).tolist(),
                [costs.to_json() for costs in levels.costs],
                [levels.idle_watts, levels.switch_seconds, plan.slack, plan.period],
            ]
        execution = self.validation.int8_execution or ""
        return [self.weights, self.precision, execution, self.costs.to_json(), frequencies]

    @cached_property
    def classic_accuracy(self) -> float:
        """Validation accuracy of the network without exits."""
        return float((self.validation.logits[:, -1].argmax(axis=1) == self.validation.labels).mean())

    @cached_property
    def memory(self) -> Memory | None:
        """Bytes of the network's parts at its precision and at the batch size of the costs; None where unknown."""
        return None if self.work is None else Memory.of(self.work, self.precision, self.costs.batch_size)

    def trace(self, statistic: Statistic | None, split: SplitLogits | None = None) -> Trace:
        """The trace of the validation split, or of another split, with thresholds from the calibration split.

        ``statistic`` None is for policies that read no thresholds; the trace then has those of ``mean_logit``.
        """
        split = self.validation if split is None else split
        statistic = statistic or "mean_logit"
        key = split, statistic  # a split is hashed by identity, and the key keeps the split alive
        if key not in self._traces:
            thresholds = thresholds_from_logits(self.calibration.logits, statistic)
            self._traces[key] = Trace(split.logits, split.labels, thresholds)
        return self._traces[key]

    def fitted(
        self,
        kind: type[Policy],
        prices: Sequence[float],
        *,
        criterion: Criterion,
        statistic: Statistic | None = None,
        measure: Measure = "flops",
    ) -> Sequence[Policy]:
        """Policies of a fitted kind, one for each price, from the calibration split.

        Raises:
            UserError: the costs do not hold the measure.
        """
        key = kind, criterion, statistic, measure
        if key not in self._fits:
            calibration = self.trace(statistic, self.calibration)
            fit = FITTERS[kind.name](calibration, self.costs, criterion, measure)
            self._fits[key] = lru_cache(maxsize=4)(fit)  # a search asks for one price after the other
        return self._fits[key](tuple(prices))

    def on(self, samples: Integers) -> TracedNetwork:
        """The network with some of its validation images. What is known of all images is not computed again."""
        whole = self.validation
        other = replace(self, validation=replace(whole, logits=whole.logits[samples], labels=whole.labels[samples]))
        object.__setattr__(other, "_fits", self._fits)
        for (split, statistic), trace in list(self._traces.items()):
            if split is whole:
                part = Trace(other.validation.logits, other.validation.labels, trace.thresholds)
                take_tables(trace, part, samples)
                other._traces[other.validation, statistic] = part
        return other

    def costs_of(self, policy: Policy) -> Costs:
        """The costs of the network's parts under a policy: each head with the operations of the policy's decision."""
        return self.costs.with_decisions(policy.decision_flops(self.validation.logits.shape[2]))

    @cached_property
    def cut_energies(self) -> Floats:
        """``[E+1]`` joules an image of the network cut at each exit, and of the network without exits, at f_max.

        With frequency scaling the joules are those of the whole period of an image, busy and idle.

        Raises:
            UserError: the costs hold no energies.
        """
        if self.frequencies is None:
            return self.costs.of_cuts("energy")
        exits = range(1, self.exit_count + 1)
        policies: list[Policy] = [*(Static(exit) for exit in exits), Classic()]
        one = Trace(self.validation.logits[:1], self.validation.labels[:1], np.ones(self.exit_count))
        walks = [replay(one, policy) for policy in policies]
        pairs = zip(walks, policies, strict=True)
        return np.array([self.simulate(walk, "race_to_idle", policy).joules[0] for walk, policy in pairs])

    def simulate(self, walk: Walk, rule: Rule, policy: Policy) -> Simulated:
        """A walk under frequency scaling. The network must have ``frequencies``."""
        plan = self.frequencies
        assert plan is not None, "checked before the search"
        return simulate(walk, plan.levels, rule=rule, policy=policy, slack=plan.slack, period=plan.period)

    def beta_at(self, quantile: float, statistic: Statistic | None, criterion: Criterion = "logit") -> float:
        """A quantile of the scores of all samples at all exits, on validation.

        Raises:
            UserError: no exit has a finite score.
        """
        return _positive(np.quantile(self._sorted_scores(statistic, criterion)[-1], quantile))

    def betas_at(
        self, quantiles: Sequence[float], statistic: Statistic | None, criterion: Criterion
    ) -> tuple[float, ...]:
        """For each exit a quantile of the exit's own scores."""
        scores = self._sorted_scores(statistic, criterion)[:-1]
        # An exit without a finite score has the threshold 0: every beta has the same effect there.
        pairs = zip(scores, quantiles, strict=True)
        return tuple(_positive(np.quantile(own, quantile)) if len(own) else 1.0 for own, quantile in pairs)

    def _sorted_scores(self, statistic: Statistic | None, criterion: Criterion) -> list[Floats]:
        """E + 1 sorted arrays: the finite scores of each exit, and those of all exits together."""
        key = (statistic, criterion) if criterion == "logit" else criterion
        if key not in self._scores:
            scores = table_for(self.trace(statistic), Hierarchical(1.0, 1, criterion)).stop
            finite = [np.sort(own[np.isfinite(own)]) for own in scores.T]
            self._scores[key] = [*finite, np.sort(np.concatenate(finite))]
        if not len(self._scores[key][-1]):
            raise UserError(
                f"network {self.trial_id}: all {statistic} thresholds are 0, so that no beta can be searched"
            )
        return self._scores[key]


def reference_network(networks: Sequence[TracedNetwork]) -> TracedNetwork:
    """The reference network among some networks (:func:`results.summary.reference_position`)."""
    precisions = [one.precision for one in networks]
    accuracies = [one.classic_accuracy for one in networks]
    return networks[reference_position(precisions, accuracies, [one.costs.classic("flops") for one in networks])]


def find_network(networks: Sequence[TracedNetwork], trial_id: str, precision: str) -> TracedNetwork:
    """The network of a trial at a precision."""
    return next(one for one in networks if (one.trial_id, one.precision) == (trial_id, precision))


def _positive(beta: float) -> float:
    return max(float(beta), float(np.finfo(np.float64).tiny))
