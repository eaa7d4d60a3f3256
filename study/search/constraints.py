"""What an operating point must keep to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study.errors import UserError
from study.search.operating_point import COLUMNS
from study.search.traced_network import TracedNetwork


def reference_accuracy(candidates: Sequence[TracedNetwork]) -> float:
    """Validation accuracy of the best classic network, in fp32 where that is searched: what a drop is counted from."""
    full = [candidate for candidate in candidates if candidate.precision == "fp32"]
    return max(candidate.classic_accuracy for candidate in full or candidates)


def constraint_values(metrics: Mapping[str, Any], limits: Mapping[str, float], reference: float) -> dict[str, float]:
    """By how much each limit is exceeded; kept where it is 0 or below.

    A drop of accuracy is told as a share of images, all others relative to their limit, so that they compare.
    """
    exceeded = {name: known_value(metrics, name) / limit - 1 for name, limit in limits.items() if name in COLUMNS}
    if "accuracy_drop" in limits:
        exceeded["accuracy_drop"] = reference - metrics["accuracy"] - limits["accuracy_drop"]
    # A drop of exactly the limit must not fail by the rounding of a subtraction.
    return {name: 0.0 if abs(value) < 1e-12 else value for name, value in exceeded.items()}


def known_value(metrics: Mapping[str, Any], name: str) -> float:
    """The value of an objective or constraint.

    Raises:
        UserError: the costs do not hold it.
    """
    value = metrics.get(COLUMNS[name])
    if value is None:
        raise UserError(f"{name}: the costs of this network do not hold it")
    return float(value)
