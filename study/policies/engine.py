"""The paper's exit criterion and prediction engine: ratios of logits and thresholds, compared with beta.

Ratios are float64 numbers, computed once and only compared with beta. No comparison is multiplied out, so that replay,
exact fronts and live inference agree. Exits are numbered from 1 to E as in the paper.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from study.arrays import Floats, Integers

LONGEST_JUMP = 1000
"""The largest K_max: far more than the exits of any network. A decision table has a number for each image, exit and
jump."""


def _divide_by_threshold(activation: Floats, threshold: float | Floats) -> Floats:
    """``activation / threshold``, and infinity wherever the threshold is 0."""
    threshold = np.asarray(threshold, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(threshold == 0, np.inf, activation / threshold)


def stop_ratios(logits: NDArray[np.floating], threshold: float) -> Floats:
    """``[B]`` float64, r_l = max_c |z_lc| / theta_l, from the logits ``[B, C]`` of one exit and its threshold.

    The exit criterion is ``r_l >= beta`` (paper, Eq. 1-2).
    """
    return _divide_by_threshold(np.abs(logits.astype(np.float64)).max(axis=1), threshold)


def jump_ratios(logits: NDArray[np.floating], thresholds: Floats, exit: int, max_jump: int) -> Floats:
    """r^k = max_c |z^k_c| / theta_min(l+k, E) of the prediction engine for k = 1..K_max.

    z^0 = z_l, and z^k is z^(k-1) convolved over the class axis with [1, 1, 1], zero padded. The engine predicts a
    jump of the smallest k with ``r^k > beta``.

    Args:
        logits: ``[B, C]`` of exit l.
        thresholds: ``[E]``.
        exit: l, from 1.
        max_jump: K_max, the length of the second axis of the result, ``[B, K_max]`` float64.
    """
    smoothed = np.zeros((len(logits), logits.shape[1] + 2))  # a zero on either side
    smoothed[:, 1:-1] = logits
    activations = np.empty((len(logits), max_jump))
    for k in range(max_jump):
        smoothed[:, 1:-1] = smoothed[:, :-2] + smoothed[:, 1:-1] + smoothed[:, 2:]
        activations[:, k] = np.abs(smoothed).max(axis=1)
    ahead = thresholds[np.minimum(np.arange(exit, exit + max_jump), len(thresholds) - 1)]
    return _divide_by_threshold(activations, ahead)


def predicted_jumps(ratios: Floats, beta: float | Floats) -> Integers:
    """``[B]``, the engine's jumps: the smallest k with r^k > beta, else K_max.

    Args:
        ratios: ``[B, K_max]`` from :func:`jump_ratios`.
        beta: a number, ``[K_max]`` by jump, or ``[B, 1]`` by sample.
    """
    hit = ratios > beta
    jump = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, ratios.shape[1])
    return np.asarray(jump, dtype=np.int64)
