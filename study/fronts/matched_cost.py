"""Cost at equal loss: curves of loss against cost, on images that did not choose the settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression

from study.arrays import Floats


def matched_costs(costs: Floats, losses: Floats, at: Sequence[float]) -> Floats:
    """The cost of a family of settings at given losses.

    The losses of the settings, in the order of their costs, are made monotone (isotonic regression, least squares), so
    that a lucky setting does not decide alone. The curve ends at the classic network: cost 1, loss 0. Between settings
    the curve is linear.

    Args:
        costs: ``[S]``, mean costs of the settings, as shares of the classic network's.
        losses: ``[S]``, losses of accuracy against the classic network on the same images.
        at: L losses.

    Returns:
        ``[L]``; a loss beyond that of the cheapest setting has the cost of the cheapest setting.
    """
    order = np.lexsort((-losses, costs))
    rising_costs = np.append(costs[order], 1.0)
    falling = isotonic_regression(np.append(losses[order], 0.0), increasing=False).x
    return np.asarray(np.interp(at, falling[::-1], rising_costs[::-1]))
