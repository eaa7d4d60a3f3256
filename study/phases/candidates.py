"""Phase 2's candidates: traced networks, and what an operating point of one of them is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np

from study.costs.dvfs import LevelCosts, Rule, Simulated, simulate
from study.costs.flops import NetworkWork
from study.costs.memory import Memory
from study.costs.profile import Costs
from study.criteria import Criterion
from study.errors import UserError
from study.policies import (
    Classic,
    Floats,
    Hierarchical,
    Placed,
    Policy,
    Predictive,
    Static,
    Statistic,
    thresholds_from_logits,
)
from study.precisions import Precision
from study.stored_traces import SplitLogits
from study.trace import Trace
from study.walks import Walk, replay, tally

COLUMNS = {
    "accuracy": "accuracy",
    "flops": "flops",
    "bitops": "bitops",
    "energy": "energy_joules",
    "latency_mean": "latency_mean_seconds",
    "latency_p50": "latency_p50_seconds",
    "latency_p99": "latency_p99_seconds",
    "memory": "memory_bytes",
}
"""Objective or constraint -> column of the tables."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frequencies:
    """What the simulation of frequency scaling needs of a candidate."""

    levels: LevelCosts
    slack: float
    """Share of the classic network's time at f_max that an answer may come later than it."""
    period: float
    """Seconds from one image to the next, the same for all candidates; what is left of it is spent idle."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A trained network at one precision as phase 2 sees it: its traces and its costs. No image, no weights."""

    weights: str
    """``<trial id>@<weights hash>``."""
    costs: Costs
    calibration: SplitLogits
    validation: SplitLogits
    precision: Precision = "fp32"
    work: NetworkWork | None = None
    """Counted work of its parts; None: no memory is known."""
    published: tuple[Floats, Floats] | None = None
    """FLOPs of segments and heads by the published program's accounting."""
    frequencies: Frequencies | None = None
    """None where frequency scaling is not simulated."""
    _traces: dict[object, Trace] = field(default_factory=dict, init=False, repr=False, compare=False)
    _scores: dict[object, list[Floats]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def trial_id(self) -> str:
        """The trial that trained it."""
        return self.weights.partition("@")[0]

    @property
    def exit_count(self) -> int:
        """E."""
        return self.costs.exit_count

    @property
    def identity(self) -> list[object]:
        """All that decides what its operating points are worth, as JSON-able values."""
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
        """Bytes of its parts at its precision and the costs' batch size."""
        return None if self.work is None else Memory.of(self.work, self.precision, self.costs.batch_size)

    def trace(self, statistic: Statistic, split: SplitLogits | None = None) -> Trace:
        """The trace of the validation split, or of another, with the thresholds that the calibration split gives."""
        split = self.validation if split is None else split
        key = id(split.logits), statistic  # the trace holds the logits, so that no others can take their place
        if key not in self._traces:
            thresholds = thresholds_from_logits(self.calibration.logits, statistic)
            self._traces[key] = Trace(split.logits, split.labels, thresholds)
        return self._traces[key]

    @cached_property
    def cut_energies(self) -> Floats:
        """``[E+1]`` joules of the network cut at each exit, and of the network without exits, at f_max; with frequency
        scaling, an image's whole period is paid for, idle or busy.

        Raises:
            UserError: the costs hold no energies.
        """
        if self.frequencies is None:
            segments, heads, _ = self.costs.parts("energy")
            return np.asarray(segments.cumsum() + np.append(heads, 0.0))
        exits = range(1, self.exit_count + 1)
        policies: list[Policy] = [*(Static(exit) for exit in exits), Classic()]
        one = Trace(self.validation.logits[:1], self.validation.labels[:1], np.ones(self.exit_count))
        walks = [replay(one, policy) for policy in policies]
        pairs = zip(walks, policies, strict=True)
        return np.array([self.simulate(walk, "race_to_idle", policy).joules[0] for walk, policy in pairs])

    def simulate(self, walk: Walk, rule: Rule, policy: Policy) -> Simulated:
        """A walk under frequency scaling; needs ``frequencies``."""
        plan = self.frequencies
        assert plan is not None, "checked before the search"
        return simulate(walk, plan.levels, rule=rule, policy=policy, slack=plan.slack, period=plan.period)

    def beta_at(self, quantile: float, statistic: Statistic, criterion: Criterion = "logit") -> float:
        """The beta that a share ``quantile`` of all (sample, exit) scores of the validation trace lies below.

        Raises:
            UserError: no exit has a finite score.
        """
        return _positive(np.quantile(self._sorted_scores(statistic, criterion)[-1], quantile))

    def betas_at(self, quantiles: Sequence[float], statistic: Statistic, criterion: Criterion) -> tuple[float, ...]:
        """The same for each exit by itself."""
        scores = self._sorted_scores(statistic, criterion)[:-1]
        # An exit without a finite score is one whose threshold is 0: there beta makes no difference.
        pairs = zip(scores, quantiles, strict=True)
        return tuple(_positive(np.quantile(own, quantile)) if len(own) else 1.0 for own, quantile in pairs)

    def _sorted_scores(self, statistic: Statistic, criterion: Criterion) -> list[Floats]:
        """The finite scores of each exit, then those of all exits."""
        key = (statistic, criterion) if criterion == "logit" else criterion
        if key not in self._scores:
            scores = self.trace(statistic).table_for(Hierarchical(1.0, 1, criterion)).stop
            finite = [np.sort(own[np.isfinite(own)]) for own in scores.T]
            self._scores[key] = [*finite, np.sort(np.concatenate(finite))]
        if not len(self._scores[key][-1]):
            raise UserError(
                f"network {self.trial_id}: all {statistic} thresholds are 0, so that no beta can be searched"
            )
        return self._scores[key]


def _positive(beta: float) -> float:
    return max(float(beta), float(np.finfo(np.float64).tiny))


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """A network at a precision, the statistic of its thresholds, a policy, and the rule that sets the frequency."""

    candidate: Candidate
    statistic: Statistic
    policy: Policy
    beta_quantile: float | None = None
    dvfs: str = "none"
    """``none`` or a :data:`study.costs.dvfs.Rule`; ``race_to_idle`` in place of a rule that has nothing to go by."""

    def __post_init__(self) -> None:
        knows_its_end = isinstance(self.policy, Classic | Static) and self.dvfs == "deadline"
        if self.dvfs != "none" and not (knows_its_end or isinstance(self.policy, Predictive)):
            object.__setattr__(self, "dvfs", "race_to_idle")

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for points that are the same: thresholds do not matter to a policy that compares nothing."""
        compares = not isinstance(self.policy, Classic | Static) and self.policy.criterion == "logit"
        statistic = self.statistic if compares else ""
        return self.candidate.weights, self.candidate.precision, statistic, self.policy, self.dvfs

    def settings(self) -> dict[str, Any]:
        """The point's columns in the tables."""
        policy, candidate = self.policy, self.candidate
        beta = getattr(policy, "beta", None)
        row: dict[str, Any] = {
            "policy": type(policy).__name__.lower(),
            "criterion": policy.criterion,
            "beta": None if isinstance(beta, tuple) else beta,
            "betas": list(beta) if isinstance(beta, tuple) else None,
            "beta_quantile": self.beta_quantile,
            "start_layer": getattr(policy, "start_layer", None),
            "statistic": self.statistic,
            "precision": candidate.precision,
            "int8_execution": candidate.validation.int8_execution,
            "dvfs": self.dvfs,
            "dvfs_slack": candidate.frequencies.slack if candidate.frequencies else None,
        }
        if isinstance(policy, Placed):
            row["exits"] = list(policy.exits)
        if isinstance(policy, Static):
            row["exits"] = [policy.exit]
        if isinstance(policy, Predictive):
            row |= {"max_jump": policy.max_jump, "overshoot": policy.overshoot}
        return row

    def evaluate(self, split: SplitLogits | None = None) -> dict[str, Any]:
        """Replay the point on the validation split, or on another.

        Returns:
            Its metrics as columns of the tables (without the split's name; those that the cost profile does not hold
            are None).

        Raises:
            UserError: ``deadline`` cannot keep its deadline within the slack.
        """
        candidate, costs = self.candidate, self.candidate.costs
        trace = candidate.trace(self.statistic, split)
        counted = tally(trace, self.policy)
        metrics = {
            "samples": counted.samples,
            "accuracy": counted.accuracy,
            "flops": costs.mean(counted, "flops"),
            "bitops": costs.mean(counted, "bitops") if costs.holds("bitops") else None,
            "energy_joules": costs.mean(counted, "energy") if costs.holds("energy") else None,
            "energy_source": costs.energy_source,
            "latency_source": costs.seconds_source,
            "device": costs.device,
            "memory_bytes": candidate.memory.of_policy(self.policy) if candidate.memory else None,
            "mean_exit": float(counted.stopped @ np.arange(1, trace.exit_count + 2)) / counted.samples,
            "mean_heads_run": float(counted.tried.sum()) / counted.samples,
            "classic_accuracy": trace.classic_accuracy,
            "classic_flops": costs.classic("flops"),
            "classic_energy_joules": float(candidate.cut_energies[-1]) if costs.holds("energy") else None,
            "classic_latency_seconds": costs.classic("seconds") if costs.holds("seconds") else None,
        }
        seconds, joules, smallest_slack = self.of_samples(replay(trace, self.policy)) if self._is_timed else (None,) * 3
        if self.dvfs != "none" and joules is not None:
            metrics |= {"energy_joules": float(joules.mean()), "dvfs_smallest_slack": smallest_slack}
        if seconds is not None:
            p50, p99 = np.quantile(seconds, [0.5, 0.99])
            metrics |= {
                "latency_mean_seconds": float(seconds.mean()),
                "latency_p50_seconds": float(p50),
                "latency_p99_seconds": float(p99),
            }
        return metrics

    @property
    def _is_timed(self) -> bool:
        return self.dvfs != "none" or self.candidate.costs.holds("seconds")

    def of_samples(self, walk: Walk) -> tuple[Floats | None, Floats | None, float | None]:
        """Seconds and joules of each sample of a walk, ``[N]`` each, None where the costs hold none; under a frequency
        rule also the smallest slack that the walk's policy can keep."""
        if self.dvfs != "none":
            simulated = self.candidate.simulate(walk, cast(Rule, self.dvfs), self.policy)
            return simulated.seconds, simulated.joules, simulated.smallest_slack
        costs = self.candidate.costs
        seconds = costs.per_sample(walk, "seconds") if costs.holds("seconds") else None
        joules = costs.per_sample(walk, "energy") if costs.holds("energy") else None
        return seconds, joules, None
