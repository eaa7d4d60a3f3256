"""An operating point: a traced network, a policy and a frequency rule; and its metrics on a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from study.arrays import Floats
from study.costs.model.dvfs import Rule
from study.policies.base import Policy
from study.policies.policies import policy_from_row
from study.policies.replay import Walk, replay, tally
from study.policies.thresholds import Statistic
from study.search.columns import COLUMNS as COLUMNS
from study.search.traced_network import TracedNetwork, find_network
from study.traces.trace import SplitLogits


def effective_rule(policy: Policy, rule: str) -> str:
    """The frequency rule that a policy follows when a study asks for ``rule``.

    The rules ``paper`` and ``deadline`` need to know the next exit: a policy with a prediction engine predicts it, and
    ``deadline`` also takes a policy that knows its end. All other policies run at f_max: ``race_to_idle``.
    """
    follows = policy.predicts or (policy.knows_its_end and rule == "deadline")
    return rule if rule == "none" or follows else "race_to_idle"


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """A network at a precision, the statistic of its thresholds, a policy, and the rule that sets the frequency."""

    network: TracedNetwork
    statistic: Statistic | None
    """Of the thresholds; None for a policy that compares no thresholds."""
    policy: Policy
    beta_quantile: float | None = None
    dvfs: str = "none"
    """``none`` or a :data:`study.costs.model.dvfs.Rule`; replaced by :func:`effective_rule`."""
    beta_low: float | None = None
    beta_high: float | None = None
    """Of a point of an exact front: the interval of betas that give the point. None for a policy without beta."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dvfs", effective_rule(self.policy, self.dvfs))
        if not self.policy.compares_thresholds:
            object.__setattr__(self, "statistic", None)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two suggestions of the same operating point."""
        return self.network.weights, self.network.precision, self.statistic, self.policy, self.dvfs

    def settings(self) -> dict[str, Any]:
        """The network and the columns :data:`results.schemas.SETTINGS`, without the batch size."""
        network = self.network
        return {
            "trial_id": network.trial_id,
            **self.policy.to_row(),
            "beta_low": self.beta_low,
            "beta_high": self.beta_high,
            "beta_quantile": self.beta_quantile,
            "statistic": self.statistic,
            "precision": network.precision,
            "int8_execution": network.validation.int8_execution,
            "dvfs": self.dvfs,
            "dvfs_slack": network.frequencies.slack if network.frequencies else None,
        }

    def evaluate(self, split: SplitLogits | None = None) -> dict[str, Any]:
        """The columns :data:`results.schemas.METRICS` on the validation split, or on another split, without its name.

        A cost that the network's costs do not hold is None.

        Raises:
            UserError: ``deadline`` cannot keep its deadline within the slack.
        """
        network, costs = self.network, self.network.costs_of(self.policy)
        trace = network.trace(self.statistic, split)
        counted = tally(trace, self.policy)
        energy = costs.mean(counted, "energy") if costs.holds("energy") else None
        seconds, joules, smallest_slack = None, None, None
        if self.dvfs != "none" or costs.holds("seconds"):
            seconds, joules, smallest_slack = self.of_samples(replay(trace, self.policy))
        if self.dvfs != "none" and joules is not None:
            energy = float(joules.mean())
        p50, p99 = (None, None) if seconds is None else map(float, np.quantile(seconds, [0.5, 0.99]))
        return {
            "samples": counted.samples,
            "accuracy": counted.accuracy,
            "balanced_accuracy": counted.balanced_accuracy,
            "flops": costs.mean(counted, "flops"),
            "bitops": costs.mean(counted, "bitops") if costs.holds("bitops") else None,
            "energy_joules": energy,
            "energy_source": costs.energy_source,
            "latency_mean_seconds": None if seconds is None else float(seconds.mean()),
            "latency_p50_seconds": p50,
            "latency_p99_seconds": p99,
            "latency_source": costs.seconds_source,
            "device": costs.device,
            "memory_bytes": network.memory.of_policy(self.policy) if network.memory else None,
            "dvfs_smallest_slack": smallest_slack,
            "mean_exit": float(counted.stopped @ np.arange(1, trace.exit_count + 2)) / counted.samples,
            "mean_heads_run": float(counted.tried.sum()) / counted.samples,
            "classic_accuracy": trace.classic_accuracy,
            "classic_flops": costs.classic("flops"),
            "classic_energy_joules": float(network.cut_energies[-1]) if costs.holds("energy") else None,
            "classic_latency_seconds": costs.classic("seconds") if costs.holds("seconds") else None,
        }

    def of_samples(self, walk: Walk) -> tuple[Floats | None, Floats | None, float | None]:
        """``(seconds [N], joules [N], smallest slack)`` of the samples of a walk.

        Seconds and joules are None where the costs do not hold them. The smallest slack within which the policy keeps
        its deadline is None without a frequency rule.
        """
        if self.dvfs != "none":
            simulated = self.network.simulate(walk, cast(Rule, self.dvfs), self.policy)
            return simulated.seconds, simulated.joules, simulated.smallest_slack
        costs = self.network.costs
        seconds = costs.per_sample(walk, "seconds") if costs.holds("seconds") else None
        joules = costs.per_sample(walk, "energy") if costs.holds("energy") else None
        return seconds, joules, None


def point_of(row: Mapping[str, Any], networks: Sequence[TracedNetwork]) -> OperatingPoint:
    """The operating point that a row of the table describes."""
    network = find_network(networks, row["trial_id"], row["precision"])
    return OperatingPoint(network, row["statistic"], policy_from_row(row), row["beta_quantile"], row["dvfs"])
