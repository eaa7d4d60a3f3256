"""Replay: a policy applied to a trace, with no network run.

The module is not called `replay` because the package exports the function of that name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from study.policies import (
    Booleans,
    Floats,
    Hierarchical,
    Integers,
    Policy,
    Predictive,
    Ratios,
    predicted_jumps,
)
from study.trace import DecisionTable, Trace


@dataclass(frozen=True, eq=False)
class Walk:
    """The way of N samples through a network with E exits under a policy."""

    exit_index: Integers
    """``[N]``, 1-based exit at which the sample stopped; E + 1 = classifier."""
    predictions: Integers
    """``[N]``, classes."""
    tried: Booleans
    """``[N, E]``, exit heads evaluated on the way."""
    engine_steps: Integers
    """``[N]``, smoothing steps of the prediction engine."""

    @property
    def heads_run(self) -> Integers:
        """``[N]``, number of exit heads evaluated on the way."""
        return np.asarray(self.tried.sum(axis=1), dtype=np.int64)

    def accuracy(self, labels: Integers) -> float:
        """Share of right answers."""
        return float((self.predictions == labels).mean())


def replay(trace: Trace, policy: Policy) -> Walk:
    """Apply a policy to every sample of a trace.

    Raises:
        UserError: the policy names an exit that the trace does not have.
    """
    table = trace.decision_table(policy.max_jump)
    everyone = np.arange(len(trace.labels))
    first = np.full_like(everyone, policy.first_exit(trace.exit_count))
    return walk_samples(trace, table, policy, everyone, first)


def walk_samples(
    trace: Trace,
    table: DecisionTable,
    policy: Policy,
    samples: Integers,
    first_exit: Integers,
    *,
    beta: Floats | None = None,
    next_cut: Floats | None = None,
) -> Walk:
    """Walk B rows, each a sample of the trace with its own first exit.

    Args:
        trace: holds the logits of the answers.
        table: the trace's ratios, for the policy's ``max_jump``.
        policy: decides; its own beta and start layer are overridden by the rows'.
        samples: ``[B]``, indices into the trace.
        first_exit: ``[B]``, the first exit tried.
        beta: ``[B]``, or None for the policy's own.
        next_cut: ``[B]``; where given, receives the largest beta below the row's own at which one of its comparisons
            changes (-infinity where none does).
    """
    exit_count = trace.exit_count
    exit_index = first_exit.copy()
    tried = np.zeros((len(samples), exit_count), dtype=np.bool_)
    engine_steps = np.zeros(len(samples), dtype=np.int64)
    going = np.ones(len(samples), dtype=np.bool_)
    for exit in range(1, exit_count + 1):
        here = np.flatnonzero(going & (exit_index == exit))
        if not len(here):
            continue
        ratios = table.at(samples[here], exit)
        beta_here = None if beta is None else beta[here]
        decision = policy.decide(ratios, exit=exit, exit_count=exit_count, beta=beta_here)
        tried[here, exit - 1] = True
        engine_steps[here] += decision.engine_steps
        going[here] = ~decision.stop
        exit_index[here] = np.where(decision.stop, exit, decision.next_exit)
        if next_cut is not None:
            assert beta_here is not None, "cuts are relative to each row's beta"
            cut = _cut_below(ratios, decision.stop, decision.engine_steps, beta_here)
            next_cut[here] = np.maximum(next_cut[here], cut)
    answers = trace.answers[samples, exit_index - 1]
    return Walk(exit_index, answers, tried, engine_steps)


def _cut_below(ratios: Ratios, stop: Booleans, engine_steps: Integers, beta: Floats) -> Floats:
    """``[B]``: the largest beta at which a comparison that failed at one exit would hold; -infinity without one.

    A comparison that holds goes on holding as beta falls, so only the failed ones matter.
    """
    cut = np.where(stop, -np.inf, ratios.stop)
    if ratios.jump.shape[1]:
        run = np.arange(1, ratios.jump.shape[1] + 1) <= engine_steps[:, None]
        failed = np.where(run & (ratios.jump <= beta[:, None]), ratios.jump, -np.inf).max(axis=1)
        cut = np.maximum(cut, np.nextafter(failed, -np.inf))
    return cut


def prediction_accuracy(trace: Trace, beta: float, start_layer: int, max_jump: int = 8) -> tuple[float, int]:
    """Accuracy forward: how often the engine at L_0 predicts the right exit.

    Over the samples that do not stop at L_0, the predicted jump is compared with the distance to the exit where the
    hierarchical walk from L_0 stops (E + 1 - L_0 where none does). A prediction of K_max is right when the true
    distance is K_max or more.

    Returns:
        ``(share right, number of predictions)``; the share is NaN without predictions.
    """
    policy = Predictive(beta, start_layer, max_jump)
    policy.first_exit(trace.exit_count)
    table = trace.decision_table(max_jump)
    asked = np.flatnonzero(table.stop[:, start_layer - 1] < beta)
    if not len(asked):
        return float("nan"), 0
    predicted = predicted_jumps(table.jump[asked, start_layer - 1], beta)
    true = replay(trace, Hierarchical(beta, start_layer)).exit_index[asked] - start_layer
    return float((predicted == np.minimum(true, max_jump)).mean()), len(asked)
