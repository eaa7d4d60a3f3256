"""How well the confidence of an exit ranks images: those that should stop there before those that should go on."""

from __future__ import annotations

import numpy as np

from study.arrays import Booleans, Floats
from study.traces.trace import Trace


def should_stop(trace: Trace) -> Booleans:
    """``[N, E]``: whether an image should stop at an exit.

    It should where the exit is right, or where no later exit and not the classifier is right (EEFP, arXiv 2508.21495):
    going on would then gain nothing.
    """
    right = trace.right == 1
    later = np.logical_or.accumulate(right[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(right[:, :-1] | ~later[:, 1:])


def auroc(scores: Floats, positive: Booleans) -> Floats:
    """``[E]``: the chance that a positive image has a higher score than another image; half a chance for equal scores.

    NaN where all images are positive, or none.

    Args:
        scores: ``[N, E]``.
        positive: ``[N, E]``.
    """
    found = np.full(scores.shape[1], np.nan)
    for exit, (own, yes) in enumerate(zip(scores.T, positive.T, strict=True)):
        ranked = np.sort(own[~yes])
        wanted = own[yes]
        if len(ranked) and len(wanted):
            below, up_to = (np.searchsorted(ranked, wanted, side=side).sum() for side in ("left", "right"))
            found[exit] = (below + up_to) / (2 * len(ranked) * len(wanted))
    return found
