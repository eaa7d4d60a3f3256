"""Confidence intervals: Wilson's for shares, Student's for means. Each quantity has one kind, in every command."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_Z = NormalDist().inv_cdf(0.975)


def wilson_interval(share: float, samples: int) -> tuple[float, float]:
    """95 % confidence interval of a share that was counted, such as an accuracy (Wilson 1927).

    Args:
        share: successes / samples, from 0 to 1.
        samples: number of samples.
    """
    successes = round(share * samples)
    middle = (successes + _Z**2 / 2) / (samples + _Z**2)
    half = _Z / (samples + _Z**2) * math.sqrt(successes * (samples - successes) / samples + _Z**2 / 4)
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == samples else middle + half)


def mean_interval(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % confidence intervals of means (Student's t).

    The intervals need no normal values: the mean of hundreds of samples is close to normal. For the difference of two
    means over the same images pass the differences of each image (a paired interval): the interval is far narrower
    than one of two independent samples. For a share that was counted use :func:`wilson_interval`.

    Args:
        values: ``[N, P]``: P quantities, each measured on the same N samples.

    Returns:
        ``(low, high)``, each ``[P]``. A constant has an interval of no width, and so has a single sample.
    """
    from scipy.special import stdtrit

    samples = len(values)
    mean = values[0] + (values - values[0]).mean(axis=0)  # relative to the first: rounding gives a constant no width
    if samples < 2:
        return mean, mean
    error = (values - values[0]).std(axis=0, ddof=1) / np.sqrt(samples)
    half = stdtrit(samples - 1, 0.975) * error
    return mean - half, mean + half
