"""Costs at equal loss, and the ranking of images, against plain twins."""

import numpy as np
import pytest
from hypothesis import given, strategies
from hypothesis.extra import numpy as arrays
from scipy.optimize import isotonic_regression
from support.exact_spaces import traced

from study.fronts.matched_cost import bootstrapped_costs, matched_costs, resamples
from study.fronts.ranking import auroc, should_stop

LOSSES = (0.0, 0.01, 0.03)
shares = strategies.integers(-10, 40).map(lambda value: value / 400)


@given(arrays.arrays(np.float64, (3, 6), elements=shares), strategies.randoms(use_true_random=False))
def test_the_curve_is_the_isotonic_regression_of_the_losses(losses, random):
    costs = np.array([[random.randint(1, 9) / 10 for _ in range(6)] for _ in range(3)])
    found = matched_costs(costs, losses, LOSSES)
    for own, cost, lost in zip(found, costs, losses, strict=True):
        order = np.lexsort((-lost, cost))
        falling = isotonic_regression(np.append(lost[order], 0.0), increasing=False).x
        # Just beyond each loss: where the curve is level, rounding decides between its ends.
        for at, value in zip(LOSSES, own, strict=True):
            ends = [np.interp(at + by, falling[::-1], np.append(cost[order], 1.0)[::-1]) for by in (-1e-9, 0, 1e-9)]
            assert min(ends) - 1e-6 <= value <= max(ends) + 1e-6
        np.testing.assert_allclose(matched_costs(cost, lost, LOSSES), own)


def test_no_loss_costs_more_than_the_network_without_exits():
    """Heads that run in vain can make a setting dearer than the network; nobody has to take such a setting."""
    dear = matched_costs(np.array([0.4, 1.3, 1.1]), np.array([0.02, 0.015, -0.004]), [0.02, 0.01, 0.0])
    assert dear == pytest.approx([0.4, 0.7, 1.0])
    assert dear == pytest.approx(matched_costs(np.array([0.4]), np.array([0.02]), [0.02, 0.01, 0.0]))


@given(arrays.arrays(np.float64, 6, elements=shares), arrays.arrays(np.float64, 6, elements=strategies.floats(0, 1.5)))
def test_costs_fall_with_the_loss_and_stay_within_those_of_the_settings(losses, costs):
    found = matched_costs(costs, losses, LOSSES)
    assert (np.diff(found) <= 1e-12).all() and found.max() <= 1.0
    assert found.min() >= min(costs.min(), 1.0)


def test_bootstrapped_costs_are_those_of_each_resample():
    rng = np.random.default_rng(1)
    costs, losses = rng.uniform(0.1, 0.9, (4, 50)), rng.integers(-1, 2, (4, 50)).astype(float)
    drawn = resamples(50, 7)
    assert (drawn.sum(axis=1) == 50).all()
    found = bootstrapped_costs(costs, losses, LOSSES, drawn)
    for row, own in zip(drawn / 50, found, strict=True):
        np.testing.assert_allclose(matched_costs(costs @ row, losses @ row, LOSSES), own)


def test_the_order_of_the_images_decides_nothing():
    """Sums in another order differ in their last bits, and many losses equal the loss that is asked for."""
    rng = np.random.default_rng(4)
    costs, losses = np.sort(rng.uniform(0.1, 0.9, (20, 500)), axis=0), rng.integers(-1, 2, (20, 500)).astype(float)
    drawn, order = resamples(500, 50), rng.permutation(500)
    found = bootstrapped_costs(costs, losses, [0.0, 0.002, 0.01], drawn)
    other = bootstrapped_costs(costs[:, order], losses[:, order], [0.0, 0.002, 0.01], drawn[:, order])
    np.testing.assert_allclose(found, other, rtol=1e-9)


def test_the_ranking_counts_pairs_of_images():
    rng = np.random.default_rng(2)
    scores, positive = rng.integers(0, 4, (30, 3)).astype(float), rng.random((30, 3)) < 0.6
    positive[:, 2] = True
    found = auroc(scores, positive)
    for exit in range(2):
        yes, no = scores[positive[:, exit], exit], scores[~positive[:, exit], exit]
        pairs = [(a > b) + (a == b) / 2 for a in yes for b in no]
        assert found[exit] == pytest.approx(np.mean(pairs))
    assert np.isnan(found[2])


def test_an_image_should_stop_where_no_later_exit_is_better():
    trace = traced("one", 4, 0).trace("mean_max")
    found = should_stop(trace)
    for right, stop in zip(trace.right, found, strict=True):
        assert stop.tolist() == [bool(right[exit] or not right[exit + 1 :].any()) for exit in range(4)]
