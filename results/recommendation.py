"""The recommended point of a front, and why it is recommended."""

from __future__ import annotations

from collections.abc import Mapping
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


COST_COLUMNS = {"flops": "flops", "energy": "energy_joules", "seconds": "latency_mean_seconds"}
"""A cost that :func:`recommend` makes small -> its column."""
_BY = {"flops": "", "energy": " by energy", "seconds": " by seconds"}


def recommend(
    front: pd.DataFrame, reference_accuracy: float, tolerance: float = TOLERANCE, *, cost: str = "flops"
) -> Recommendation:
    """The point that a user should take.

    The certified point with the least cost, where a point of the front is certified. Else the point with the least
    cost that loses at most ``tolerance`` on validation. Else the most accurate point.

    Args:
        front: rows of the table ``front``, at least one.
        reference_accuracy: accuracy on validation that a loss counts from.
        tolerance: as a share of the images.
        cost: of :data:`COST_COLUMNS`. A point whose cost is not known counts as the most expensive one.
    """
    accuracy = front["accuracy"].to_numpy(dtype=np.float64)
    costs = front[COST_COLUMNS[cost]].to_numpy(dtype=np.float64, na_value=np.inf)
    costs = np.where(np.isnan(costs), np.inf, costs)
    points = in_points(tolerance)
    drops = front.get("certified_drop", pd.Series(np.nan, index=front.index)).to_numpy(dtype=np.float64)
    if np.isfinite(drops).any():
        best = int(np.lexsort((costs, ~np.isfinite(drops)))[0])
        row = front.iloc[best]
        reason = (
            f"the cheapest certified point{_BY[cost]}: with {row['certified_confidence'] * 100:g} % confidence it "
            f"loses at most {in_points(row['certified_drop'])} on new images, tested on "
            f"{row['certified_samples']:.0f} images that no choice has seen"
        )
        return Recommendation(best, reason)
    near = accuracy >= reference_accuracy - tolerance - 1e-12
    if near.any():
        reason = (
            f"the cheapest point{_BY[cost]} within {points} of the classic network on validation; it is not certified"
        )
        return Recommendation(int(np.lexsort((costs, ~near))[0]), reason)
    reason = f"the most accurate point: no point is within {points} of the classic network on validation"
    return Recommendation(int(np.lexsort((costs, -accuracy))[0]), reason)


def recommend_within(front: pd.DataFrame, reference_accuracy: float, limits: Mapping[str, float]) -> Recommendation:
    """The most accurate point on validation whose costs keep some limits; of equally accurate points, the one with the
    fewest FLOPs.

    Args:
        front: rows of the table ``front``, at least one.
        reference_accuracy: accuracy on validation that a loss counts from.
        limits: column of costs -> the most that the cost may be, in the unit of the column. A point whose cost is not
            known keeps no limit.

    Raises:
        ValueError: no point keeps the limits. The message names the limit that the nearest point exceeds most.
    """
    accuracy, flops = (front[name].to_numpy(dtype=np.float64) for name in ("accuracy", "flops"))
    costs = np.column_stack([front[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in limits])
    used = np.where(np.isfinite(costs), costs, np.inf) / np.array(list(limits.values()))
    kept = (used <= 1 + 1e-12).all(axis=1)
    words = " and ".join(f"{_cost(name, limit)} at most" for name, limit in limits.items())
    if not kept.any():
        nearest = int(used.max(axis=1).argmin())
        name = list(limits)[int(used[nearest].argmax())]
        raise ValueError(f"no point needs {words}; the nearest needs {_cost(name, front[name].iloc[nearest])}")
    best = int(np.lexsort((flops, -np.where(kept, accuracy, -np.inf)))[0])
    lost = (reference_accuracy - accuracy[best]) * 100
    against = f"{abs(lost):.2f} points {'below' if lost >= 0 else 'above'} the classic network there"
    return Recommendation(best, f"the most accurate point on validation that needs {words}, {against}")


_COSTS = {
    "flops": "{:.6g} FLOPs",
    "bitops": "{:.6g} bit operations",
    "energy_joules": "{:.6g} J of energy",
    "latency_mean_seconds": "{:.6g} s of mean latency",
    "latency_p50_seconds": "{:.6g} s of median latency",
    "latency_p99_seconds": "{:.6g} s of latency for 99 % of the images",
    "memory_bytes": "{:.6g} bytes of memory",
}
"""Column of a cost -> the cost in words."""


def _cost(column: str, value: float) -> str:
    return _COSTS[column].format(value)


def in_points(share: float) -> str:
    """A share of the images in percentage points."""
    return f"{share * 100:.3g} point{'' if share == 0.01 else 's'}"
