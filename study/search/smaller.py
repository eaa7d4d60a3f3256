"""Smaller networks of the same run: the plainest rivals of early exits.

A narrower network, or one of another architecture, may be as accurate as a large network with exits and need less. The
rows ``smaller`` show each such network as it stands, and, where it has exits, with its exits. A network is smaller than
a reference network if its classic network costs less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from results.parts import rows_of
from search_spaces.words import COST_NAMES
from study.costs.costs import Costs

SMALLER_COLUMNS = (
    *("trial_id", "smaller_id", "smaller", "precision", "family", "drop", "accuracy", "accuracy_drop"),
    *("flops_share", "energy_share", "test_accuracy", "test_drop", "test_flops_share", "test_energy_share"),
)
"""The reference network and a smaller one (its trial, what it is, its precision); ``classic`` for the network as it
stands, or the family of policies that is cheapest within a bound ``drop``; accuracy, loss and costs against the
reference network, on validation and, with the prefix ``test_``, on test."""


@dataclass(frozen=True)
class Backbone:
    """A network of phase 1 as it stands, without exits."""

    trial_id: str
    name: str
    """What it is, as ``vgg19 x 0.25``; and after how many epochs a scheduler stopped it, if one did."""
    accuracy: float
    """On validation."""
    costs: Costs
    """Only the costs of the segments count."""


def smaller_rows(
    trial_id: str, accuracy: float, costs: Mapping[str, float], backbones: Sequence[Backbone]
) -> pd.DataFrame:
    """Each backbone that costs fewer FLOPs than a reference network, as it stands, cheapest first.

    Args:
        trial_id: of the reference network.
        accuracy: of the reference network without exits, on validation.
        costs: ``flops``, and perhaps ``energy``, of the reference network without exits.
        backbones: of the same data set.
    """
    rows: list[dict[str, Any]] = []
    for one in sorted(backbones, key=lambda one: (one.costs.classic("flops"), -one.accuracy)):
        if one.costs.classic("flops") < costs["flops"] * (1 - 1e-9):
            row: dict[str, Any] = {
                "trial_id": trial_id,
                "smaller_id": one.trial_id,
                "smaller": one.name,
                "precision": "fp32",
                "family": "classic",
                "accuracy": one.accuracy,
                "accuracy_drop": accuracy - one.accuracy,
                "flops_share": one.costs.classic("flops") / costs["flops"],
            }
            if "energy" in costs and one.costs.holds("energy"):
                row["energy_share"] = one.costs.classic("energy") / costs["energy"]
            rows.append(row)
    return pd.DataFrame(rows, columns=list(SMALLER_COLUMNS))


def beaten_by(
    accuracy: float, share: float, smaller: pd.DataFrame, objective: str = "flops"
) -> Mapping[str, Any] | None:
    """The most accurate smaller network that costs less than an operating point and is at least as accurate, if any.

    Args:
        accuracy: of the point, on validation.
        share: the point's cost as a share of the reference network's.
        smaller: rows of one reference network.
        objective: ``flops`` or ``energy``.
    """
    better = [
        row
        for row in rows_of(smaller)
        if (own := row[f"{objective}_share"]) is not None and own < share and row["accuracy"] >= accuracy
    ]
    return max(better, key=lambda row: row["accuracy"], default=None)


def smaller_sentence(
    what: str, share: float, accuracy: float, rival: Mapping[str, Any], objective: str = "flops"
) -> str:
    """A sentence for an operating point that loses to a smaller network.

    Args:
        what: the point, as ``2d37 fp32, 1 point lost: predictive``.
        share: the point's cost as a share of the reference network's.
        accuracy: of the point, on validation.
        rival: what :func:`beaten_by` found.
        objective: the cost that ``share`` is of, a key of :data:`search_spaces.words.COST_NAMES`.
    """
    own = rival[f"{objective}_share"]
    stands = "as it stands" if rival["family"] == "classic" else f"with its exits ({rival['family']})"
    return (
        f"{what} loses to a smaller network: {rival['smaller']} ({rival['smaller_id']}) {stands} needs {own:.1%} "
        f"instead of {share:.1%} of the {COST_NAMES[objective]} and is right on {rival['accuracy']:.2%} instead of "
        f"{accuracy:.2%} of the validation images"
    )
