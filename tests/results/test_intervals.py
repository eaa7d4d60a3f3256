"""Confidence intervals: the bootstrap against theory and against scipy's, and Wilson's by its formula."""

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from results.intervals import mean_interval, wilson_interval

SAMPLES = 400


def columns(samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """Right answers, FLOPs of two kinds of walks, and something skewed: `[N, 3]`."""
    rng = np.random.default_rng(seed)
    return np.column_stack(
        [rng.random(samples) < 0.9, rng.choice([3e8, 9e8], samples), rng.exponential(2e-3, samples)]
    ).astype(np.float64)


def test_intervals_of_means_are_those_of_scipy_s_t_test():
    values = columns()
    low, high = mean_interval(values)
    for place, column in enumerate(values.T):
        other = stats.ttest_1samp(column, 0.0).confidence_interval(0.95)
        assert (low[place], high[place]) == pytest.approx((other.low, other.high), rel=1e-9)


def test_intervals_of_differences_are_those_of_scipy_s_paired_t_test():
    values = columns()
    low, high = mean_interval((values[:, 0] - values[:, 2])[:, None])
    other = stats.ttest_rel(values[:, 0], values[:, 2]).confidence_interval(0.95)
    assert (low[0], high[0]) == pytest.approx((other.low, other.high), rel=1e-9)


@pytest.mark.parametrize("samples", [20, 100, 2000])
def test_about_95_of_100_t_intervals_hold_the_true_mean(samples):
    rng = np.random.default_rng(3)
    low, high = mean_interval(rng.normal(7.0, 2.0, (samples, 4000)))
    assert ((low <= 7.0) & (high >= 7.0)).mean() == pytest.approx(0.95, abs=0.01)


def test_about_95_of_100_t_intervals_hold_the_true_mean_of_skewed_costs():
    """Most images stop early and a few go to the end: the samples are far from normal, their mean is not."""
    rng = np.random.default_rng(4)
    costs = rng.choice([3e8, 9e8], (1000, 2000), p=[0.9, 0.1])
    low, high = mean_interval(costs)
    assert ((low <= 3.6e8) & (high >= 3.6e8)).mean() == pytest.approx(0.95, abs=0.015)


def test_a_t_interval_lies_about_the_mean_and_shrinks_with_more_samples():
    widths = {}
    for samples in (50, 5000):
        values = columns(samples)
        low, high = mean_interval(values)
        np.testing.assert_allclose((low + high) / 2, values.mean(axis=0), rtol=1e-12)
        widths[samples] = (high - low) / values.std(axis=0)
    np.testing.assert_allclose(widths[50] / widths[5000], 10, rtol=0.05)


def test_a_constant_has_an_interval_of_no_width():
    """Not even by rounding, which would put its mean outside: a static cut costs the same for every image."""
    values = np.tile([0.0, 1.0, 0.1, 1 / 3, 796_419_072.0, 2.7e-5], (SAMPLES, 1))
    low, high = mean_interval(values)
    assert low.tolist() == high.tolist() == values[0].tolist()


def test_a_single_sample_has_no_width_and_no_quantity_no_interval():
    low, high = mean_interval(np.array([[2.5, -1.0]]))
    assert low.tolist() == high.tolist() == [2.5, -1.0]
    low, high = mean_interval(np.empty((3, 0)))
    assert low.shape == high.shape == (0,)


def test_a_quantity_s_interval_does_not_depend_on_the_others():
    values = columns()
    together = mean_interval(values)
    for place in range(values.shape[1]):
        alone = mean_interval(values[:, [place]])
        np.testing.assert_allclose(np.ravel(alone), [together[0][place], together[1][place]], rtol=1e-12)


@pytest.mark.parametrize("samples", [1, 7, 263])
def test_wilson_s_interval_is_that_of_his_formula(samples):
    """(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    z = 1.959963984540054
    for right in {0, 1, samples // 2, samples}:
        p, n = right / samples, samples
        middle, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        expected = ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))
        low, high = wilson_interval(p, samples)
        assert (low, high) == pytest.approx(expected, abs=1e-9)
        assert 0 <= low <= p <= high <= 1
