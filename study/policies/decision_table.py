"""Decision tables: the scores of a trace that policies compare with beta, computed once for each trace."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from study.arrays import Floats, batches, share
from study.errors import UserError
from study.policies.base import Policy, Ratios
from study.policies.criteria import Criterion, agreement, confidence
from study.traces.trace import Trace

_PUBLISHED_MAX_JUMP = 8
_LOGIT = ("logit", ())
_TABLES: WeakKeyDictionary[Trace, dict[tuple[str, tuple[int, ...]], DecisionTable]] = WeakKeyDictionary()
"""Trace -> (criterion, exits that patience tries) -> table."""


@dataclass(frozen=True, eq=False)
class DecisionTable:
    """The scores that policies compare with beta.

    The size is 8 N E (K_max + 1) bytes, whatever the number of classes: 180 MB for 50,000 samples, 50 exits and
    K_max = 8.
    """

    scores: Floats
    """``[N, E, K_max+1]``: the score of the exit criterion at place 0, r^k of the engine at place k. K_max may be 0."""

    @property
    def max_jump(self) -> int:
        """K_max."""
        return int(self.scores.shape[2]) - 1

    def up_to(self, max_jump: int) -> DecisionTable:
        """The table of an engine with fewer steps; a view."""
        return DecisionTable(self.scores[:, :, : max_jump + 1])

    @property
    def stop(self) -> Floats:
        """``[N, E]``, r_l of the paper's criterion, or the scores of another criterion."""
        return self.scores[:, :, 0]

    @property
    def jump(self) -> Floats:
        """``[N, E, K_max]``, r^k at exit l."""
        return self.scores[:, :, 1:]

    @classmethod
    def from_trace(cls, trace: Trace, max_jump: int) -> DecisionTable:
        """The ratios of the paper's criterion and engine, in float64.

        The logits are read in chunks, because a memory-mapped trace may be larger than the memory.
        """
        from study.policies.kernels import fill_ratios  # numba takes a second to import

        table = np.empty((len(trace.labels), trace.exit_count, max_jump + 1))
        share(lambda chunk: fill_ratios(trace.logits[chunk], trace.thresholds, table[chunk]), len(table))
        return cls(table)

    def at(self, samples: NDArray[np.int64], exit: int) -> Ratios:
        """The ratios of some samples at one exit."""
        rows = self.scores[samples, exit - 1]
        return Ratios(rows[:, 0], rows[:, 1:])


def table_for(trace: Trace, policy: Policy) -> DecisionTable:
    """A table with all scores that a policy compares, and perhaps further steps of the engine.

    The table does not depend on the policy's beta.

    Raises:
        UserError: the policy's criterion is patience, and the exits that the policy tries differ between samples.
    """
    tables, criterion = _TABLES.setdefault(trace, {}), policy.criterion
    if criterion == "logit":
        return _widest_table(trace, policy.max_jump)
    # The scores of patience depend on which exits were tried before.
    tried = policy.path(trace.exit_count) if criterion == "patience" else ()
    if tried is None:
        raise UserError("criterion patience needs a policy that tries the same exits for every image")
    if (criterion, tried) not in tables:
        for other in [key for key in tables if key[0] == "patience"]:
            del tables[other]  # each placement has a table of its own: keep one
        tables[criterion, tried] = DecisionTable(_scores(trace, criterion, tried)[:, :, None])
    return tables[criterion, tried]


def take_tables(whole: Trace, part: Trace, samples: NDArray[np.int64]) -> None:
    """Give a trace of some samples of another trace, with the same thresholds, the tables that are known of the other.

    Tables of patience are left out: each placement has its own.
    """
    known = _TABLES.get(whole, {})
    kept = {key: DecisionTable(table.scores[samples]) for key, table in known.items() if key[0] != "patience"}
    _TABLES.setdefault(part, {}).update(kept)


def ratio_table(trace: Trace, max_jump: int) -> DecisionTable:
    """The ratios of the paper's criterion and of an engine with ``max_jump`` steps."""
    return _widest_table(trace, max_jump).up_to(max_jump)


def _widest_table(trace: Trace, max_jump: int) -> DecisionTable:
    """The table of ratios with the most engine steps so far. The first table has the published K_max steps, so that
    the table serves most engines."""
    tables = _TABLES.setdefault(trace, {})
    widest = tables.get(_LOGIT)
    if widest is None or widest.max_jump < max_jump:
        tables[_LOGIT] = widest = DecisionTable.from_trace(trace, max_jump and max(max_jump, _PUBLISHED_MAX_JUMP))
    return widest


def _scores(trace: Trace, criterion: Criterion, tried: tuple[int, ...]) -> Floats:
    """``[N, E]``; 0 at an exit that patience does not try."""
    scores = np.zeros((len(trace.labels), trace.exit_count))
    if criterion == "oracle":
        scores[trace.right[:, :-1] == 1] = np.inf
    elif criterion == "patience":
        columns = np.asarray(tried) - 1
        scores[:, columns] = agreement(trace.answers[:, columns])
    else:
        assert criterion != "logit", "ratios have a table of their own"
        for chunk in batches(len(scores), max(1, trace.chunk_samples // 4)):  # the softmax needs several float64 arrays
            scores[chunk] = confidence(trace.logits[chunk, :-1], criterion)
    return scores
