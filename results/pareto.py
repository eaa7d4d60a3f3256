"""Non-dominated points."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray


def non_dominated(values: NDArray[np.float64], *, maximize: Sequence[bool] | bool = False) -> NDArray[np.bool_]:
    """Which points no other point dominates.

    Args:
        values: ``[n, m]``, m objectives of n points. A row with a NaN is never part of the front and dominates
            nothing.
        maximize: ``[m]``, whether an objective is maximised; one value holds for all. The default minimises.

    Returns:
        ``[n]`` mask. Equal points do not dominate each other: all copies are kept.
    """
    values = np.asarray(values, dtype=np.float64)
    mask = np.zeros(len(values), dtype=np.bool_)
    known = np.flatnonzero(~np.isnan(values).any(axis=1))
    if len(known):
        mask[known] = moocore.is_nondominated(values[known], maximise=maximize, keep_weakly=True)
    return mask


def hypervolume(values: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Volume that some points dominate, up to a reference point (Zitzler and Thiele 1998).

    Args:
        values: ``[n, m]``, every objective minimised, finite; a point that is not better than the
            reference in each of them adds nothing.
        reference: ``[m]``.
    """
    values = np.asarray(values, dtype=np.float64)
    inside = values[(values < reference).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0
