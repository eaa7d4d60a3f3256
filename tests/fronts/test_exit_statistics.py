"""The table of what happens at each exit."""

from math import nan

import numpy as np

from study import Costs, Hierarchical, Trace, replay
from study.fronts.exit_statistics import exit_statistics


def test_exit_statistics_by_hand():
    """Sample 0 stops at exit 1, sample 1 at the classifier; nobody stops at exit 2."""
    logits = np.array([[[5, 0], [1, 0], [0, 1]], [[1, 0], [1, 0], [0, 1]]], dtype=np.float32)
    trace = Trace(logits=logits, labels=np.array([0, 1]), thresholds=np.array([1.0, 2.0]))
    costs = Costs(segment_flops=[1.0, 2.0, 4.0], head_flops=[16.0, 32.0])
    table = exit_statistics(trace, replay(trace, Hierarchical(4.0)), costs)
    assert table["exit"].tolist() == [1, 2, 3]
    assert table["share_stopped"].tolist() == [0.5, 0.0, 0.5]
    assert table["accuracy_all"].tolist() == [0.5, 0.5, 0.5]
    np.testing.assert_array_equal(table["accuracy_stopped"], [1.0, nan, 1.0])
    np.testing.assert_array_equal(table["threshold"], [1.0, 2.0, nan])
    assert table["cumulative_flops"].tolist() == [17.0, 35.0, 7.0]
