"""The cheapest point of a subset of exits is that of the exact front of the same subset."""

import numpy as np
import pytest
from hypothesis import given, strategies
from support.exact_spaces import traced

from study.fronts.exact import Limits, front_of_sweeps
from study.fronts.placement import SortedScores
from study.fronts.sweep import Sweep
from study.policies.policies import Placed
from study.traces.trace import Trace

EXITS = 4
BOUNDS = np.arange(17)


@given(
    seed=strategies.integers(0, 50),
    exits=strategies.sets(strategies.integers(1, EXITS), min_size=1).map(sorted),
    criterion=strategies.sampled_from(["logit", "max_softmax", "entropy", "margin", "oracle"]),
    without_threshold=strategies.sets(strategies.integers(0, EXITS - 1)),
)
def test_the_cheapest_point_of_a_placement_is_that_of_its_exact_front(seed, exits, criterion, without_threshold):
    one = traced("one", EXITS, seed)
    trace = one.trace("mean_max")
    thresholds = trace.thresholds.copy()
    thresholds[list(without_threshold)] = 0.0  # scores are infinite there
    trace = Trace(trace.logits, trace.labels, thresholds)
    scores = SortedScores.of(trace, one.costs, criterion, ["flops", "energy"])
    every = front_of_sweeps([Sweep(trace, one.costs, Placed(1.0, exits, criterion))], ["accuracy", "flops"])
    energies = np.quantile(one.cut_energies, [0.1, 0.5, 0.9])
    for limit in (np.inf, *energies):
        front = front_of_sweeps(
            [Sweep(trace, one.costs, Placed(1.0, exits, criterion))],
            ["accuracy", "flops"],
            Limits(most={"energy": limit}),
        )
        found = scores.cheapest(exits, BOUNDS, {1: limit})
        for least, cost in zip(BOUNDS, found, strict=True):
            enough = front[front["accuracy"] * len(trace.labels) >= least]
            assert cost == (enough["flops"].min() if len(enough) else np.inf)
    assert len(every) >= 1 and scores.cheapest(exits, BOUNDS, {})[0] == every["flops"].min()


def test_patience_depends_on_the_subset_and_has_no_sorted_scores():
    one = traced("one", EXITS, 0)
    with pytest.raises(AssertionError):
        SortedScores.of(one.trace("mean_max"), one.costs, "patience", ["flops"])
