"""Names and exits of a phase-2 search space, checked before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from search_spaces.choices import Choice
from search_spaces.spec import OperatingPointsSpec
from study.errors import UserError
from study.networks.precisions import PRECISIONS
from study.policies.criteria import CRITERIA, Criterion
from study.policies.engine import LONGEST_JUMP
from study.policies.policies import POLICIES, Overshoot
from study.policies.thresholds import Statistic

SEARCHABLE: tuple[Criterion, ...] = tuple(name for name in CRITERIA if name != "oracle")
"""The oracle knows the labels: no search may take it."""


def check_names(points: OperatingPointsSpec, *, criteria: Sequence[str] = SEARCHABLE) -> None:
    """Refuse what the program does not know.

    Raises:
        UserError: an unknown name, or a criterion that no policy of the space has.
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
    if points.criterion.values != ("logit",) and not {"hierarchical", "placed"} & set(points.policy.values):
        raise UserError("operating_points.criterion: only the policies hierarchical and placed can have another one")


def check_depth(points: OperatingPointsSpec, depth: int) -> None:
    """Refuse exits that a network with so many exits does not have.

    Raises:
        UserError: one is named.
    """
    asked = {"start_layer": points.start_layer.largest if isinstance(points.start_layer, Choice) else 1}
    if points.placements != "auto":
        asked["placements"] = max(placed[-1] for placed in points.placements)
    for key, exit in asked.items():
        if exit > depth:
            raise UserError(f"operating_points.{key}: names exit {exit:g}, but a network has {depth}")
