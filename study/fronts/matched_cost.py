"""Cost at equal loss: curves of loss against cost, on images that did not choose the settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from study.arrays import Floats, batches

RESAMPLES = 400
_AT_ONCE = 2**22
"""Numbers of the arrays in memory at a time."""


def matched_costs(costs: Floats, losses: Floats, at: Sequence[float]) -> Floats:
    """The cost of a family of settings at given losses.

    The losses of the settings, in the order of their costs, are made monotone (isotonic regression, least squares), so
    that a lucky setting does not decide alone. The curve ends at the classic network: cost 1, loss 0. Between settings
    the curve is linear. A setting that costs at least as much as the classic network counts as that network, which
    loses nothing and which every family may take.

    Args:
        costs: ``[..., S]``, mean costs of the settings, as shares of the classic network's.
        losses: ``[..., S]``, losses of accuracy against the classic network on the same images.
        at: L losses.

    Returns:
        ``[..., L]``; a loss beyond that of the cheapest setting has the cost of the cheapest setting.
    """
    dear = costs >= 1.0
    costs, losses = np.where(dear, 1.0, costs), np.where(dear, 0.0, losses)
    order = np.lexsort((-losses, costs))
    ends = [(0, 0)] * (costs.ndim - 1) + [(0, 1)]
    rising = np.pad(np.take_along_axis(costs, order, axis=-1), ends, constant_values=1.0)
    falling = _falling(np.pad(np.take_along_axis(losses, order, axis=-1), ends))
    places = np.ndindex(costs.shape[:-1])
    found = [np.interp(at, falling[place][::-1], rising[place][::-1]) for place in places]
    return np.asarray(found, dtype=np.float64).reshape(*costs.shape[:-1], len(at))


def _falling(values: Floats) -> Floats:
    """``[..., S]``: the least-squares fit that falls along the last axis. O(S^2).

    The fit at i is the least, over all a <= i, of the largest mean of values[a..b] over all b >= i.
    """
    size = values.shape[-1]
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), values.cumsum(axis=-1)], axis=-1)
    counts = np.arange(1, size + 1) - np.arange(size)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (sums[..., None, 1:] - sums[..., :-1, None]) / counts
    means[..., counts < 1] = -np.inf
    largest = np.maximum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]  # [..., a, i]: over all b >= i
    largest[..., counts < 1] = np.inf
    fit = largest.min(axis=-2)
    return np.asarray(np.minimum.accumulate(fit, axis=-1))  # equal numbers may differ in their last bits


def resamples(samples: int, count: int = RESAMPLES) -> Floats:
    """``[R, N]``: how often each of N images is drawn in each of R bootstrap samples of N images. Always the same."""
    rng = np.random.default_rng(0)
    drawn = np.empty((count, samples))
    for row in drawn:
        row[:] = np.bincount(rng.integers(samples, size=samples), minlength=samples)
    return drawn


def bootstrapped_costs(costs: Floats, losses: Floats, at: Sequence[float], drawn: Floats) -> Floats:
    """``[R, L]``: :func:`matched_costs` of R bootstrap samples of the images.

    Losses are compared as numbers of images, which are exact: many equal the loss that is asked for, and a last bit,
    which differs from processor to processor, would decide.

    Args:
        costs: ``[S, N]``, of each setting and image.
        losses: ``[S, N]``, whole or half numbers.
        at: L losses, as shares of the images.
        drawn: ``[R, N]``, of :func:`resamples`.
    """
    samples = drawn.shape[1]
    mean_costs, lost_images = drawn @ costs.T / samples, drawn @ losses.T
    asked = [loss * samples for loss in at]
    chunk = max(1, _AT_ONCE // (len(costs) + 1) ** 2)
    parts = (matched_costs(mean_costs[part], lost_images[part], asked) for part in batches(len(drawn), chunk))
    return np.concatenate(list(parts))


def middle_95(draws: Floats) -> tuple[Floats, Floats]:
    """The ends of the middle 95 % of R draws ``[R, L]``."""
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return low, high
