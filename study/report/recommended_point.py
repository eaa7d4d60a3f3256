"""The point of a front that keeps what a user asks for: a loss of accuracy, a confidence, a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from results.parts import rows_of
from results.point_text import policy_text, setting_text
from results.recommendation import COST_COLUMNS, TOLERANCE, Recommendation, in_points, recommend, recommend_within
from results.storage.paths import Location
from results.summary import FrontSummary
from search_spaces.spec import GuaranteeSpec
from search_spaces.words import short
from study.errors import UserError
from study.policies.base import Policy
from study.policies.policies import policy_from_row
from study.run.certify import StoredCertification, certify_stored
from study.run.stored_front import evaluate_command
from study.search.operating_point import COLUMNS

_BUDGETS = {name: column for name, column in COLUMNS.items() if name != "accuracy"}
_BUDGETS["latency"] = _BUDGETS["latency_mean"]
_CERTIFIED = ("certified_drop", "certified_confidence", "certified_samples")


@dataclass(frozen=True, eq=False)
class RecommendedPoint:
    """A point of a front that is recommended."""

    number: int
    """Of the point, in the front."""
    row: pd.Series
    """Its row of :meth:`study.Study.front`. Where a confidence was asked for, ``certified_*`` say what is certified.

    In a study without a certification split, half of the test images certified: ``reason`` has the loss on the others.
    """
    reason: str
    """Why the point is recommended."""
    policy: Policy
    """For :func:`study.replay`."""
    command: str
    """Evaluates the point live, where the run folder holds its weights."""

    def __repr__(self) -> str:
        row = next(iter(rows_of(self.row.to_frame().T)))
        setting = ", ".join(part for part in (policy_text(row), setting_text(row)) if part)
        return (
            f"point {self.number} ({setting}; {row['trial_id']} {row['precision']})\n"
            f"  {row['flops_share']:.1%} of the classic network's FLOPs; accuracy {row['accuracy']:.2%} on validation, "
            f"{row['test_accuracy']:.2%} on test [{row['test_accuracy_low']:.2%}, {row['test_accuracy_high']:.2%}]\n"
            f"  why: {self.reason}\n"
            f"  evaluate it: {self.command}"
        )


def recommend_point(
    folder: Location,
    summary: FrontSummary,
    *,
    max_accuracy_drop: float | None = None,
    confidence: float | None = None,
    budget: Mapping[str, float] | None = None,
    data: str | None = None,
    cost: str = "flops",
) -> RecommendedPoint:
    """The point of a front that a user should take; the rule is that of :meth:`study.Study.recommend`.

    Args:
        folder: run folder, or a pack.
        summary: of the front.
        max_accuracy_drop, confidence, budget, data, cost: as of :meth:`study.Study.recommend`.

    Raises:
        UserError: a value cannot be, a cost is not known, no point is certified, or no point keeps the budget.
    """
    if max_accuracy_drop is not None and not 0 <= max_accuracy_drop < 1:
        raise UserError(f"recommend: max_accuracy_drop is {max_accuracy_drop}, but must be a share from 0 to below 1")
    _check_cost(summary.points, cost, budget)
    limits = _limits(summary.points, budget or {})
    points, stored = _stored_certificates(summary.points, max_accuracy_drop), None
    if confidence is not None:
        stored = _certify(folder, max_accuracy_drop, confidence, data)
        points = _certified(points, stored)
    found = _choose(points, summary.reference.accuracy, max_accuracy_drop, limits, cost)
    row = points.iloc[found.position]
    number = int(row["number"])
    reason = found.reason if stored is None else f"{found.reason}; {_reported(stored, found.position)}"
    plain = next(iter(rows_of(row.to_frame().T)))
    return RecommendedPoint(number, row, reason, policy_from_row(plain), evaluate_command(folder, number))


def _choose(
    points: pd.DataFrame,
    reference_accuracy: float,
    max_accuracy_drop: float | None,
    limits: Mapping[str, float],
    cost: str,
) -> Recommendation:
    if not limits:
        drop = TOLERANCE if max_accuracy_drop is None else max_accuracy_drop
        return recommend(points, reference_accuracy, drop, cost=cost)
    try:
        found = recommend_within(points, reference_accuracy, limits)
    except ValueError as error:
        some = " that is certified" if points["certified_drop"].notna().all() else ""
        raise UserError(f"recommend: of the front{some}, {error}") from None
    row = points.iloc[found.position]
    if pd.notna(row["certified_drop"]):
        sure = (
            f"certified: with {row['certified_confidence'] * 100:g} % confidence it loses at most "
            f"{in_points(row['certified_drop'])} on new images"
        )
    else:
        sure = "it is not certified"
    lost = reference_accuracy - row["accuracy"]
    if max_accuracy_drop is not None and lost > max_accuracy_drop + 1e-12:
        sure += f"; no point within the budget loses at most {in_points(max_accuracy_drop)}"
    return Recommendation(found.position, f"{found.reason}; {sure}")


def _check_cost(points: pd.DataFrame, cost: str, budget: Mapping[str, float] | None) -> None:
    """Refuse (``UserError``) a cost that is unknown here, or that a budget leaves nothing to choose."""
    if cost not in COST_COLUMNS:
        raise UserError(f"recommend: cost {short(cost)!r} is unknown: use one of {', '.join(COST_COLUMNS)}")
    if budget and cost != "flops":
        raise UserError("recommend: with a budget the most accurate point is taken: leave out cost or budget")
    if not points[COST_COLUMNS[cost]].notna().any():
        raise UserError(f"recommend: this study does not know the {cost} of its points")


def _limits(points: pd.DataFrame, budget: Mapping[str, float]) -> dict[str, float]:
    """Column -> limit. Raises ``UserError`` for a cost that is unknown here, and for a limit that cannot be."""
    limits: dict[str, float] = {}
    for name, limit in budget.items():
        if name not in _BUDGETS:
            raise UserError(f"recommend: the budget names {name!r}: it may name {', '.join(sorted(_BUDGETS))}")
        if not (isinstance(limit, int | float) and math.isfinite(limit) and limit > 0):
            raise UserError(f"recommend: the budget of {name} is {limit!r}, but must be a finite number above 0")
        column = _BUDGETS[name]
        if not points[column].notna().any():
            raise UserError(f"recommend: this study does not know the {name} of its points (column {column})")
        limits[column] = min(float(limit), limits.get(column, math.inf))
    return limits


def _stored_certificates(points: pd.DataFrame, max_accuracy_drop: float | None) -> pd.DataFrame:
    """The front, without certificates that promise less than is asked for."""
    if max_accuracy_drop is None:
        return points
    kept = points["certified_drop"].le(max_accuracy_drop + 1e-12)
    return points.assign(**{name: points[name].where(kept) for name in _CERTIFIED})


def _certify(
    folder: Location, max_accuracy_drop: float | None, confidence: float, data: str | None
) -> StoredCertification:
    """Certify the front; at least one point is certified."""
    drop = TOLERANCE if max_accuracy_drop is None else max_accuracy_drop
    if not 0.5 < confidence < 1:
        raise UserError(f"recommend: confidence is {confidence}, but must be above 0.5 and below 1, as 0.9")
    if drop == 0:
        raise UserError("recommend: with a confidence, max_accuracy_drop must be above 0")
    found = certify_stored(folder, GuaranteeSpec(accuracy_drop=drop, confidence=confidence), data)
    if not found.certification.certified:
        raise UserError(f"recommend: {found.certification.sentence()}")
    return found


def _certified(points: pd.DataFrame, found: StoredCertification) -> pd.DataFrame:
    """The points that are certified, from safe to cheap.

    All of them are certified at the same time, so that any of them may be chosen.
    """
    positions = list(found.certification.positions)
    columns = found.certification.columns(positions[0])
    return points.iloc[positions].assign(**{name: float(value) for name, value in columns.items()})


def _reported(found: StoredCertification, place: int) -> str:
    """The loss of the certified point at a place of the path, on the images that report."""
    row = found.points.iloc[place]
    images = "test images" if found.own_split else "test images of the half that did not certify"
    return (
        f"on {found.reporting} {images} it loses {row['reported_loss'] * 100:.2f} points "
        f"({row['reported_loss_low'] * 100:.2f} to {row['reported_loss_high'] * 100:.2f})"
    )
