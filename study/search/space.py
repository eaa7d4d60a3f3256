"""The search space of phase 2: checks before any work starts, and constraints on operating points."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from search_spaces.choices import Choice
from search_spaces.spec import OperatingPointsSpec
from study.errors import UserError
from study.networks.precisions import PRECISIONS
from study.policies.criteria import CRITERIA, Criterion
from study.policies.engine import LONGEST_JUMP
from study.policies.policies import POLICIES, Overshoot
from study.policies.thresholds import Statistic
from study.search.operating_point import COLUMNS, OperatingPoint

SEARCHABLE: tuple[Criterion, ...] = tuple(name for name in CRITERIA if name not in ("log_margin", "oracle"))
"""The criteria that a search may use. The oracle is left out: it knows the labels."""


def check_names(points: OperatingPointsSpec, *, criteria: Sequence[str] = SEARCHABLE) -> None:
    """Refuse unknown names in a search space.

    Raises:
        UserError: an unknown name, or criteria of which no policy of the space has one.
    """
    for key, known in (
        ("policy", tuple(POLICIES)),
        ("criterion", tuple(criteria)),
        ("statistic", get_args(Statistic)),
        ("overshoot", get_args(Overshoot)),
        ("quantization", PRECISIONS),
    ):
        for name in getattr(points, key).values:
            if name not in known:
                raise UserError(f"operating_points.{key}: {name!r} is unknown: use one of {', '.join(known)}")
    if points.max_jump.largest > LONGEST_JUMP:
        raise UserError(f"operating_points.max_jump: {points.max_jump.largest:g} is above {LONGEST_JUMP}")
    if "patience" in points.criterion.values and "head_thresholds" in points.policy.values:
        raise UserError(
            "operating_points.criterion: head_thresholds cannot be fitted to patience, which depends on the exits tried"
        )
    takers = [name for name, kind in POLICIES.items() if "criterion" in kind.settings()]
    if "logit" not in points.criterion.values and not set(takers) & set(points.policy.values):
        raise UserError(
            f"operating_points.criterion: only the policies {', '.join(takers)} can have another one than logit"
        )


def check_depth(points: OperatingPointsSpec, depth: int) -> None:
    """Refuse a search space that names an exit beyond the last exit, number ``depth``.

    Raises:
        UserError: the space names such an exit.
    """
    asked = {"start_layer": points.start_layer.largest if isinstance(points.start_layer, Choice) else 1}
    if points.placements != "auto":
        asked["placements"] = max(placed[-1] for placed in points.placements)
    for key, exit in asked.items():
        if exit > depth:
            raise UserError(f"operating_points.{key}: names exit {exit:g}, but a network has {depth}")


def constraint_values(metrics: Mapping[str, Any], limits: Mapping[str, float], reference: float) -> dict[str, float]:
    """Constraint -> excess over its limit; a constraint is kept where the excess is 0 or below.

    The excess of a drop of accuracy is a share of images. All other excesses are shares of their limits.
    """
    exceeded = {name: known_value(metrics, name) / limit - 1 for name, limit in limits.items() if name in COLUMNS}
    if "accuracy_drop" in limits:
        exceeded["accuracy_drop"] = reference - metrics["accuracy"] - limits["accuracy_drop"]
    # A drop of exactly the limit must not fail by the rounding of a subtraction.
    return {name: 0.0 if abs(value) < 1e-12 else value for name, value in exceeded.items()}


def judge(point: OperatingPoint, limits: Mapping[str, float], reference: float) -> dict[str, Any]:
    """The columns :data:`results.schemas.METRICS` and ``CONSTRAINTS`` of a point on validation.

    A drop of accuracy counts from ``reference``.
    """
    metrics = point.evaluate()
    exceeded = constraint_values(metrics, limits, reference)
    feasible = all(value <= 0 for value in exceeded.values())
    return {"split": "validation", **metrics, "feasible": feasible, "constraints": json.dumps(exceeded)}


def known_value(metrics: Mapping[str, Any], name: str) -> float:
    """The value of an objective or constraint.

    Raises:
        UserError: the costs do not hold the value.
    """
    value = metrics.get(COLUMNS[name])
    if value is None:
        raise UserError(f"{name}: the costs of this network do not hold it")
    return float(value)
