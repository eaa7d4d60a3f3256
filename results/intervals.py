"""Confidence intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000


def wilson_interval(share: float, samples: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson 1927).

    Args:
        share: of successes.
        samples: it was counted on.
    """
    from scipy.stats import binomtest  # over a second to import, for this one line

    interval = binomtest(round(share * samples), samples).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


class Bootstrap:
    """95 % percentile intervals of means over the same N samples (Efron 1979).

    All means are resampled alike, so that those of two operating points compare. O(R N) memory for R resamples.
    """

    def __init__(self, samples: int, *, seed: int = 0, resamples: int = RESAMPLES) -> None:
        drawn = np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), size=resamples)
        self._weights = drawn / samples

    def interval(self, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``(low, high)``, each ``[P]``, of the means of P columns ``[N, P]``; of a constant it has no width."""
        # Relative to the first sample, so that rounding gives a constant no width.
        low, high = values[0] + np.quantile(self._weights @ (values - values[0]), [0.025, 0.975], axis=0)
        return low, high
