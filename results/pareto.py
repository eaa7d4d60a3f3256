"""Non-dominated points."""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import NDArray


def non_dominated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points no other point dominates.

    Args:
        values: ``[n, m]``, every objective minimised. A row with a NaN is never part of the front and dominates
            nothing.

    Returns:
        ``[n]`` mask. Equal points do not dominate each other: all copies are kept.
    """
    values = np.asarray(values, dtype=np.float64)
    mask = np.zeros(len(values), dtype=np.bool_)
    known = np.flatnonzero(~np.isnan(values).any(axis=1))
    if len(known):
        mask[known] = moocore.is_nondominated(values[known], keep_weakly=True)
    return mask
