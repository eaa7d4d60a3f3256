"""Phase 2's candidates: traced networks, and what an operating point of one of them is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from study.costs.profile import Costs
from study.errors import UserError
from study.policies import Classic, Floats, Placed, Policy, Predictive, Static, Statistic, thresholds_from_logits
from study.stored_traces import SplitLogits
from study.trace import Trace
from study.walks import Walk, replay


@dataclass(frozen=True, eq=False)
class Candidate:
    """A trained network as phase 2 sees it: its traces and its costs. No image, no weights."""

    weights: str
    """``<trial id>@<weights hash>``."""
    costs: Costs
    calibration: SplitLogits
    validation: SplitLogits
    _traces: dict[str, Trace] = field(default_factory=dict, repr=False, compare=False)
    _ratios: dict[str, Floats] = field(default_factory=dict, repr=False, compare=False)

    @property
    def trial_id(self) -> str:
        """The trial that trained it."""
        return self.weights.partition("@")[0]

    @property
    def exit_count(self) -> int:
        """E."""
        return self.costs.exit_count

    def trace(self, statistic: Statistic) -> Trace:
        """The validation trace with the thresholds that the calibration split gives."""
        if statistic not in self._traces:
            self._traces[statistic] = self.trace_of(self.validation, statistic)
        return self._traces[statistic]

    def trace_of(self, split: SplitLogits, statistic: Statistic) -> Trace:
        """Another split's trace with the same thresholds."""
        return Trace(split.logits, split.labels, thresholds_from_logits(self.calibration.logits, statistic))

    def beta_at(self, statistic: Statistic, quantile: float) -> float:
        """The beta that a share ``quantile`` of all (sample, exit) ratios of the validation trace lies below.

        Raises:
            UserError: no exit has a threshold above 0.
        """
        if statistic not in self._ratios:
            ratios = self.trace(statistic).decision_table(0).stop
            self._ratios[statistic] = np.sort(ratios[np.isfinite(ratios)])
        if not len(self._ratios[statistic]):
            raise UserError(
                f"network {self.trial_id}: all {statistic} thresholds are 0, so that no beta can be searched"
            )
        beta = float(np.quantile(self._ratios[statistic], quantile))
        return max(beta, float(np.finfo(np.float64).tiny))


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """A network, the statistic of its thresholds and a policy."""

    candidate: Candidate
    statistic: Statistic
    policy: Policy
    beta_quantile: float | None = None

    @property
    def key(self) -> tuple[str, str, Policy]:
        """Equal for points that are the same: thresholds do not matter to a policy that compares nothing."""
        compares = not isinstance(self.policy, Classic | Static)
        return self.candidate.trial_id, self.statistic if compares else "", self.policy

    def settings(self) -> dict[str, Any]:
        """The point's columns in the tables."""
        policy = self.policy
        row: dict[str, Any] = {
            "policy": type(policy).__name__.lower(),
            "beta": getattr(policy, "beta", None),
            "beta_quantile": self.beta_quantile,
            "start_layer": getattr(policy, "start_layer", None),
            "statistic": self.statistic,
            "precision": "fp32",
        }
        if isinstance(policy, Placed):
            row["exits"] = list(policy.exits)
        if isinstance(policy, Static):
            row["exits"] = [policy.exit]
        if isinstance(policy, Predictive):
            row |= {"max_jump": policy.max_jump, "overshoot": policy.overshoot}
        return row

    def evaluate(self, split: SplitLogits | None = None) -> tuple[dict[str, Any], Trace, Walk]:
        """Replay the point on the validation split, or on another.

        Returns:
            Its metrics as columns of the tables (without the split's name), the trace and the walk.
        """
        candidate, costs = self.candidate, self.candidate.costs
        trace = candidate.trace(self.statistic) if split is None else candidate.trace_of(split, self.statistic)
        walk = replay(trace, self.policy)
        metrics = {
            "samples": len(trace.labels),
            "accuracy": walk.accuracy(trace.labels),
            "flops": float(costs.per_sample(walk, "flops").mean()),
            "energy_joules": float(costs.per_sample(walk, "energy").mean()),
            "energy_source": costs.energy_source,
            "mean_exit": float(walk.exit_index.mean()),
            "mean_heads_run": float(walk.heads_run.mean()),
            "classic_accuracy": float((trace.answers[:, -1] == trace.labels).mean()),
            "classic_flops": costs.classic("flops"),
            "classic_energy_joules": costs.classic("energy"),
        }
        return metrics, trace, walk
