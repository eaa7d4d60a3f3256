"""Replay: a policy applied to a trace, without running the network.

:func:`replay` and :func:`tally` run compiled loops. :func:`walk_samples` computes the same walks with array operations,
for any policy. The tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from study.arrays import Booleans, Floats, Integers, share
from study.policies.base import CompiledPolicy, Policy, Ratios
from study.policies.decision_table import DecisionTable, table_for
from study.traces.trace import Trace

MANY = 2**15
"""Number of samples from which threads make a tally faster."""


@dataclass(frozen=True, eq=False)
class Walk:
    """The path of N samples through a network with E exits under a policy."""

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

    def tally(self, labels: Integers) -> Tally:
        """The counts of this walk."""
        return Tally(
            samples=len(labels),
            of_class=np.bincount(labels),
            right_of_class=np.bincount(labels[self.predictions == labels], minlength=int(labels.max()) + 1),
            stopped=np.bincount(self.exit_index - 1, minlength=self.tried.shape[1] + 1),
            tried=np.asarray(self.tried.sum(axis=0), dtype=np.int64),
            engine_steps=int(self.engine_steps.sum()),
        )


@dataclass(frozen=True, eq=False)
class Tally:
    """The counts of a walk of N samples. They give every mean over the samples."""

    samples: int
    of_class: Integers
    """``[C]``, samples of each class."""
    right_of_class: Integers
    """``[C]``, those of them whose answer is right."""
    stopped: Integers
    """``[E+1]``, samples that stopped at each exit and at the classifier."""
    tried: Integers
    """``[E]``, samples that tried each exit head."""
    engine_steps: int
    """Smoothing steps of all samples."""

    @property
    def right(self) -> int:
        """Samples whose answer is right."""
        return int(self.right_of_class.sum())

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.samples

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes with samples of the share of right answers in each class."""
        there = self.of_class > 0
        return float((self.right_of_class[there] / self.of_class[there]).mean())


def replay(trace: Trace, policy: Policy) -> Walk:
    """Apply a policy to every sample of a trace.

    The loop makes at most O(N E K_max) comparisons; most walks are far shorter.

    Raises:
        UserError: the policy names an exit that the trace does not have.
    """
    samples, exits = len(trace.labels), trace.exit_count
    first, compiled = policy.first_exit(exits), policy.compiled(exits)
    table = table_for(trace, policy)
    if compiled is None:
        table = table.up_to(policy.max_jump)
        return walk_samples(trace, table, policy, np.arange(samples), np.full(samples, first))
    exit_index, engine_steps = np.empty((2, samples), dtype=np.int64)
    tried = np.zeros((samples, exits), dtype=np.bool_)
    _count(trace, table, compiled, slice(None), (exit_index, tried, engine_steps))
    return Walk(exit_index, trace.answers[np.arange(samples), exit_index - 1], tried, engine_steps)


def tally(trace: Trace, policy: Policy) -> Tally:
    """The counts of a :func:`replay`, in a fraction of the time: enough for accuracy and mean costs.

    Raises:
        UserError: the policy names an exit that the trace does not have.
    """
    compiled, samples = policy.compiled(trace.exit_count), len(trace.labels)
    if compiled is None:
        return replay(trace, policy).tally(trace.labels)
    count = partial(_count, trace, table_for(trace, policy), compiled)
    parts = [count(slice(None))] if samples < MANY else share(count, samples, each=1)
    steps, right_of_class, stopped, tried = (sum(counts) for counts in zip(*parts, strict=True))
    return Tally(samples, trace.class_sizes, right_of_class, stopped, tried, steps)


def _count(
    trace: Trace,
    table: DecisionTable,
    policy: CompiledPolicy,
    chunk: slice,
    paths: tuple[Integers, Booleans, Integers] | None = None,
) -> tuple[int, Integers, Integers, Integers]:
    """Of a part of the samples: engine steps, right answers in each class ``[C]``, samples that stopped at each exit
    ``[E+1]`` and that tried it ``[E]``.
    """
    from study.policies.kernels import walk  # numba takes a second to import

    stopped, tried = np.zeros(trace.exit_count + 2, np.int64), np.zeros(trace.exit_count + 1, np.int64)
    right_of_class = np.zeros(len(trace.class_sizes), np.int64)
    right, labels = trace.right[chunk], trace.labels[chunk]
    steps = walk(table.scores[chunk], right, labels, policy, right_of_class, stopped, tried, paths)
    return steps, right_of_class, stopped[1:], tried[1:]


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
        table: the scores of the trace, with exactly the engine steps of the policy.
        policy: makes the decisions. ``first_exit`` and ``beta`` replace the policy's start layer and beta.
        samples: ``[B]``, indices into the trace.
        first_exit: ``[B]``, the first exit tried.
        beta: ``[B]``; None: the policy's beta.
        next_cut: ``[B]``, or None. Receives the largest beta below the beta of the row at which a comparison of the row
            changes; -infinity where no comparison changes.
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
    """``[B]``: the largest beta at which a comparison that failed at this exit would hold; -infinity if none failed.

    A comparison that holds still holds at every lower beta. Only failed comparisons can change.
    """
    cut = np.where(stop, -np.inf, ratios.stop)
    if ratios.jump.shape[1]:
        run = np.arange(1, ratios.jump.shape[1] + 1) <= engine_steps[:, None]
        failed = np.where(run & (ratios.jump <= beta[:, None]), ratios.jump, -np.inf).max(axis=1)
        cut = np.maximum(cut, np.nextafter(failed, -np.inf))
    return cut


def join_walks(walks: Sequence[Walk]) -> Walk:
    """Several walks through one network as one walk, with the samples in the order of the walks."""
    columns = zip(*((one.exit_index, one.predictions, one.tried, one.engine_steps) for one in walks), strict=True)
    return Walk(*map(np.concatenate, columns))
