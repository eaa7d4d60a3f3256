"""Thresholds of each head: the vector of thresholds with the best return at a price, by coordinate ascent.

A right answer is worth 1, and a run of the classic network costs the price. With all other thresholds fixed, one pass
over the sorted scores of an exit finds its best threshold exactly. Rounds over the exits, from several starts, end
where no change of one threshold improves the return. An exit with an infinite threshold is not tried and costs nothing,
so that the search also chooses the exits. Over all prices, the thresholds are those of least cost at a given loss on
the calibration images (the convex part of their front).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from study.arrays import Floats, concurrently
from study.costs.costs import Costs, Measure
from study.fronts.priced_paths import PRICES, PathShares
from study.policies.criteria import Criterion
from study.policies.decision_table import table_for
from study.policies.policies import HeadThresholds, Hierarchical
from study.traces.trace import Trace

_STARTS = (0.0, 0.3, 0.7)
"""Shares of the samples that every exit stops at the start. From 0, the first round decides the exits one by one."""


def head_thresholds(
    scores: Floats, right: NDArray[np.int8], paths: PathShares, prices: Sequence[float]
) -> list[Floats]:
    """``[E]`` thresholds for each price; infinity at an exit that is not tried.

    Args:
        scores: ``[N, E]`` of the calibration images, of any criterion whose scores do not depend on the exits tried.
        right: ``[N, E+1]``, whether the answer of an exit is right.
        paths: costs of segments and heads.
        prices: accuracy that a whole run of the classic network is worth.
    """
    from study.fronts.stopping_kernels import climb

    samples, exits = scores.shape
    columns = np.ascontiguousarray(scores.T)
    order = np.argsort(-columns, axis=1, kind="stable").astype(np.int32)
    falling = np.take_along_axis(columns, order, axis=1)

    def best(price: float) -> Floats:
        found, stops_of_best = -np.inf, np.zeros(exits, dtype=np.int64)
        rank, here, value = np.empty_like(order), np.empty(samples, dtype=np.int32), np.empty(samples)
        for share in _STARTS:
            stops = _down_to(falling, int(samples * share))
            reach, head = paths.reach, paths.head
            gain = climb(order, falling, right, reach, head, float(price), stops, rank, here, value)
            if gain > found:
                found, stops_of_best = gain, stops
        return _between(falling, stops_of_best)

    return concurrently(best, prices)


def fit_head_thresholds(
    trace: Trace, costs: Costs, criterion: Criterion, prices: Sequence[float] = PRICES, *, measure: Measure = "flops"
) -> list[HeadThresholds]:
    """One policy for each price; two prices with equal thresholds give one policy. A price that no exit is worth gives
    none.

    Args:
        trace: N calibration images.
        costs: of the network that made the trace.
        criterion: whose scores the thresholds bound; not ``patience``, whose scores depend on the exits tried.
        prices: accuracy that a whole run of the classic network is worth.
        measure: the cost that has the price.

    Raises:
        UserError: the costs do not hold the measure.
    """
    assert criterion != "patience", "its scores depend on the exits tried"
    scores = table_for(trace, Hierarchical(1.0, 1, criterion)).stop
    found = head_thresholds(scores, trace.right, PathShares.of(costs, measure), prices)
    distinct = {tuple(one.tolist()): float(price) for one, price in zip(found, prices, strict=True)}
    tried = {one: tuple((np.flatnonzero(np.isfinite(one)) + 1).tolist()) for one in distinct}
    return [HeadThresholds(one, tried[one], criterion, price) for one, price in distinct.items() if tried[one]]


def _down_to(falling: Floats, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """``[E]``: how many scores of each exit reach its ``count``-th largest one: equal scores stop alike."""
    if not count:
        return np.zeros(len(falling), dtype=np.int64)
    return np.asarray((falling >= falling[:, count - 1 : count]).sum(axis=1), dtype=np.int64)


def _between(falling: Floats, stops: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Floats:
    """``[E]``: a threshold half way between the last score that stops and the first that does not."""
    thresholds = np.full(len(stops), np.inf)
    tiny, largest = np.finfo(np.float64).tiny, np.finfo(np.float64).max
    for exit, count in enumerate(stops):
        if count:
            last = min(falling[exit, count - 1], largest)
            after = falling[exit, count] if count < falling.shape[1] else 0.0
            middle = last / 2 + after / 2
            thresholds[exit] = max(middle if middle > after else last, tiny)
    return thresholds
