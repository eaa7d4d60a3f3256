"""Thresholds of the exits, from logits of the calibration split."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from study.arrays import Floats
from study.errors import UserError

Statistic = Literal["mean_logit", "mean_max"]


def thresholds_from_logits(logits: NDArray[np.floating], statistic: Statistic) -> Floats:
    """The threshold theta_l of every exit.

    Args:
        logits: ``[N, E+1, C]``, all exits and the classifier on the calibration split, eval mode, no augmentation.
        statistic: ``mean_logit`` = |mean over samples and classes of z_l| (the published program), ``mean_max`` =
            mean over samples of max_c |z_lc| (Passalis et al., Pattern Recognition 2020).

    Returns:
        ``[E]`` float64, never negative.

    Raises:
        UserError: the statistic is unknown.
    """
    exits = range(logits.shape[1] - 1)  # one exit at a time: float64 copies of all logits may not fit into memory
    if statistic == "mean_logit":
        return np.array([abs(logits[:, exit].mean(dtype=np.float64)) for exit in exits])
    if statistic == "mean_max":
        return np.array([np.abs(logits[:, exit]).max(axis=1).mean(dtype=np.float64) for exit in exits])
    raise UserError(f"threshold statistic {statistic!r} is unknown: use mean_logit or mean_max")
