"""Confidence intervals."""

from __future__ import annotations


def wilson_interval(share: float, samples: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson 1927).

    Args:
        share: of successes.
        samples: it was counted on.
    """
    from scipy.stats import binomtest  # over a second to import, for this one line

    interval = binomtest(round(share * samples), samples).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
