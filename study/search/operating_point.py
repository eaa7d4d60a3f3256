"""Phase 2's networks: traced networks, and what an operating point of one of them is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from study.arrays import Floats
from study.costs.model.dvfs import Rule
from study.policies.base import Policy
from study.policies.replay import Walk, replay, tally
from study.policies.thresholds import Statistic
from study.search.traced_network import TracedNetwork
from study.traces.trace import SplitLogits

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


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """A network at a precision, the statistic of its thresholds, a policy, and the rule that sets the frequency."""

    network: TracedNetwork
    statistic: Statistic
    policy: Policy
    beta_quantile: float | None = None
    dvfs: str = "none"
    """``none`` or a :data:`study.costs.model.dvfs.Rule`; ``race_to_idle`` where the policy gives a rule nothing."""

    def __post_init__(self) -> None:
        follows = self.policy.predicts or (self.policy.knows_its_end and self.dvfs == "deadline")
        if self.dvfs != "none" and not follows:
            object.__setattr__(self, "dvfs", "race_to_idle")

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for points that are the same: thresholds do not matter to a policy that compares nothing."""
        statistic = self.statistic if self.policy.compares_thresholds else ""
        return self.network.weights, self.network.precision, statistic, self.policy, self.dvfs

    def settings(self) -> dict[str, Any]:
        """The point's columns in the tables."""
        network = self.network
        return {
            **self.policy.to_row(),
            "beta_quantile": self.beta_quantile,
            "statistic": self.statistic,
            "precision": network.precision,
            "int8_execution": network.validation.int8_execution,
            "dvfs": self.dvfs,
            "dvfs_slack": network.frequencies.slack if network.frequencies else None,
        }

    def evaluate(self, split: SplitLogits | None = None) -> dict[str, Any]:
        """Replay the point on the validation split, or on another.

        Returns:
            Its metrics as columns of the tables (without the split's name; those that the cost profile does not hold
            are None).

        Raises:
            UserError: ``deadline`` cannot keep its deadline within the slack.
        """
        network, costs = self.network, self.network.costs
        trace = network.trace(self.statistic, split)
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
            "memory_bytes": network.memory.of_policy(self.policy) if network.memory else None,
            "mean_exit": float(counted.stopped @ np.arange(1, trace.exit_count + 2)) / counted.samples,
            "mean_heads_run": float(counted.tried.sum()) / counted.samples,
            "classic_accuracy": trace.classic_accuracy,
            "classic_flops": costs.classic("flops"),
            "classic_energy_joules": float(network.cut_energies[-1]) if costs.holds("energy") else None,
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
        return self.dvfs != "none" or self.network.costs.holds("seconds")

    def of_samples(self, walk: Walk) -> tuple[Floats | None, Floats | None, float | None]:
        """Seconds and joules of each sample of a walk, ``[N]`` each, None where the costs hold none; under a frequency
        rule also the smallest slack that the walk's policy can keep."""
        if self.dvfs != "none":
            simulated = self.network.simulate(walk, cast(Rule, self.dvfs), self.policy)
            return simulated.seconds, simulated.joules, simulated.smallest_slack
        costs = self.network.costs
        seconds = costs.per_sample(walk, "seconds") if costs.holds("seconds") else None
        joules = costs.per_sample(walk, "energy") if costs.holds("energy") else None
        return seconds, joules, None
