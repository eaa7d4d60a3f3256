"""The recommended point of a front, and why it is recommended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

TOLERANCE = 0.01
"""Accuracy on validation, as a share, that a recommended point may lose without a guarantee."""


@dataclass(frozen=True)
class Recommendation:
    """One point of a front."""

    position: int
    """Of its row in the front."""
    reason: str
    """A clause that goes on behind the name of the point."""


def recommend(front: pd.DataFrame, reference_accuracy: float, tolerance: float = TOLERANCE) -> Recommendation:
    """The point that a user should take.

    The certified point with the fewest FLOPs, where a point of the front is certified. Else the point with the fewest
    FLOPs that loses at most ``tolerance`` on validation. Else the most accurate point.

    Args:
        front: rows of the table ``front``, at least one.
        reference_accuracy: accuracy on validation that a loss counts from.
        tolerance: as a share of the images.
    """
    accuracy, flops = (front[name].to_numpy(dtype=np.float64) for name in ("accuracy", "flops"))
    points = _points(tolerance)
    drops = front.get("certified_drop", pd.Series(np.nan, index=front.index)).to_numpy(dtype=np.float64)
    if np.isfinite(drops).any():
        best = int(np.where(np.isfinite(drops), flops, np.inf).argmin())
        row = front.iloc[best]
        reason = (
            f"the cheapest certified point: with {row['certified_confidence'] * 100:g} % confidence it loses at most "
            f"{_points(row['certified_drop'])} on new images, tested on {row['certified_samples']:.0f} images "
            "that no choice has seen"
        )
        return Recommendation(best, reason)
    near = accuracy >= reference_accuracy - tolerance - 1e-12
    if near.any():
        reason = f"the cheapest point within {points} of the classic network on validation; it is not certified"
        return Recommendation(int(np.where(near, flops, np.inf).argmin()), reason)
    reason = f"the most accurate point: no point is within {points} of the classic network on validation"
    return Recommendation(int(np.lexsort((flops, -accuracy))[0]), reason)


def _points(share: float) -> str:
    return f"{share * 100:.3g} point{'' if share == 0.01 else 's'}"
