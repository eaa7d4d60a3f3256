"""What a study's tables say, in the few figures that people ask for first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from results.tables import read_table


@dataclass(frozen=True)
class Reference:
    """The most accurate classifier among the searched networks, on validation: what the front is held against."""

    trial_id: str
    accuracy: float
    flops: float
    energy_joules: float


@dataclass(frozen=True)
class FrontSummary:
    """A front beside the classic network."""

    reference: Reference
    energy_source: str
    points: pd.DataFrame
    """The front, cheapest first, with ``accuracy_drop``, ``flops_share`` and ``energy_share`` against the reference,
    and ``test_accuracy_drop`` against the point's own network on the test split."""
    best_static: pd.Series | None
    """The cheapest network cut within ``tolerance`` of the reference (a row of ``exits``)."""
    best_point: pd.Series | None
    """The cheapest point of the front within ``tolerance`` of the reference."""
    tolerance: float


def summarize_front(tables: Path, tolerance: float = 0.01) -> FrontSummary:
    """Compare the front with the classic network and with the static cuts, on validation.

    Args:
        tables: the run folder's ``tables``.
        tolerance: accuracy that may be lost, as a share.

    Raises:
        TableError: the study has no front yet.
    """
    front, exits = read_table(tables, "front"), read_table(tables, "exits")
    cuts = exits[exits["point"].isna() & (exits["split"] == "validation")].drop_duplicates(["trial_id", "exit"])
    classic = cuts[cuts["exit"] == cuts.groupby("trial_id")["exit"].transform("max")]
    best = classic.sort_values(["accuracy_all", "cumulative_flops"], ascending=[False, True]).iloc[0]
    reference = Reference(
        str(best["trial_id"]),
        float(best["accuracy_all"]),
        float(best["cumulative_flops"]),
        float(best["cumulative_energy_joules"]),
    )
    points = front.assign(
        accuracy_drop=reference.accuracy - front["accuracy"],
        flops_share=front["flops"] / reference.flops,
        energy_share=front["energy_joules"] / reference.energy_joules,
        test_accuracy_drop=front["test_classic_accuracy"] - front["test_accuracy"],
    )
    enough = reference.accuracy - tolerance - 1e-12
    return FrontSummary(
        reference=reference,
        energy_source=str(front["energy_source"].iloc[0]),
        points=points,
        best_static=_cheapest(
            cuts[(cuts["accuracy_all"] >= enough) & ~cuts.index.isin(classic.index)], "cumulative_flops"
        ),
        best_point=_cheapest(points[points["accuracy"] >= enough], "flops"),
        tolerance=tolerance,
    )


def _cheapest(rows: pd.DataFrame, column: str) -> pd.Series | None:
    return None if rows.empty else rows.sort_values(column, kind="stable").iloc[0]


def summary_json(summary: FrontSummary) -> dict[str, Any]:
    """The summary as JSON-able values."""
    points = summary.points.astype(object).where(summary.points.notna(), None)
    return {
        "classic": vars(summary.reference),
        "energy_source": summary.energy_source,
        "tolerance": summary.tolerance,
        "best_point": None if summary.best_point is None else int(summary.best_point["number"]),
        "front": [
            {key: list(value) if hasattr(value, "tolist") else value for key, value in row.items()}
            for row in points.to_dict("records")
        ],
    }
