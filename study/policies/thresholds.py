"""Exit criterion, prediction engine and policies: pure functions on arrays.

A policy never sees logits. It sees *ratios* (logits divided by thresholds, float64, computed once) and compares
them with ``beta``; nothing is ever multiplied out. Replay, exact fronts and live inference share these comparisons,
so that they cannot disagree.

Exits are numbered from 1 to E as in the paper; E + 1 is the classifier.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from study.arrays import Floats
from study.errors import UserError

Statistic = Literal["mean_logit", "mean_max"]


def thresholds_from_logits(logits: NDArray[np.floating], statistic: Statistic) -> Floats:
    """Threshold theta_l of every exit from calibration logits.

    Args:
        logits: ``[N, E+1, C]``, all exits and the classifier on the calibration split, eval mode, no augmentation.
        statistic: ``mean_logit`` = |mean over samples and classes of z_l| (the published program), ``mean_max`` =
            mean over samples of max_c |z_lc| (Passalis et al., Pattern Recognition 2020).

    Returns:
        ``[E]`` float64, never negative.
    """
    exits = range(logits.shape[1] - 1)  # one after the other: in float64 all at once may not fit into the memory
    if statistic == "mean_logit":
        return np.array([abs(logits[:, exit].mean(dtype=np.float64)) for exit in exits])
    if statistic == "mean_max":
        return np.array([np.abs(logits[:, exit]).max(axis=1).mean(dtype=np.float64) for exit in exits])
    raise UserError(f"threshold statistic {statistic!r} is unknown: use mean_logit or mean_max")
