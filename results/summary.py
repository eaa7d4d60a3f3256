"""The summary of a front: its points against the classic network and the static cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from results.parts import data_names, of_data, read_table, rows_of
from results.recommendation import COST_COLUMNS, TOLERANCE, recommend
from results.schemas import TableError
from results.storage.paths import Location


@dataclass(frozen=True)
class Reference:
    """Costs and validation accuracy of the reference network (:func:`reference_position`)."""

    trial_id: str
    precision: str
    accuracy: float
    flops: float
    energy_joules: float
    """NaN where the study has no energies."""
    latency_seconds: float
    """NaN where the study has no seconds."""


@dataclass(frozen=True)
class FrontSummary:
    """A front beside the classic network."""

    reference: Reference
    energy_source: str | None
    latency_source: str | None
    device: str | None
    points: pd.DataFrame
    """The front, cheapest first, with ``accuracy_drop``, ``flops_share`` and ``energy_share`` against the reference,
    and ``test_accuracy_drop`` against the point's own network on the test split."""
    best_static: pd.Series | None
    """The cheapest network cut within ``tolerance`` of the reference (a row of ``exits``)."""
    static_test_accuracy: float | None
    """Accuracy of that cut on test; None where no point of the front is of the same network and precision."""
    recommended: pd.Series
    """The recommended point (:func:`results.recommendation.recommend`)."""
    reason: str
    """Why the point is recommended."""
    best_point: pd.Series | None
    """The point of the front with the fewest FLOPs within ``tolerance`` of the reference."""
    thriftiest_point: pd.Series | None
    """The point of the front with the least energy within ``tolerance``; None without energies."""
    tolerance: float
    optimism: float | None
    """Share of the front's hypervolume on validation that is lost on test; None where the first volume is 0."""
    mean_optimism: float
    """Mean over the front of the accuracy on validation minus the accuracy on test: an effect of the choice, and of
    chance."""
    classic_optimism: float
    """The same difference for the networks without exits. No accuracy of theirs was chosen: an effect of chance."""


def summarize_front(tables: Location, tolerance: float = TOLERANCE, *, data: str | None = None) -> FrontSummary:
    """Compare the front with the classic network and with the static cuts, on validation.

    Args:
        tables: the run folder's ``tables``.
        tolerance: accuracy that may be lost, as a share.
        data: the data set; may be left out where the study has one.

    Raises:
        TableError: the study has no front yet, or none of this data set; it has several data sets and none is named;
            or the tables say what cannot be.
    """
    there = data_names(tables, "front")
    if data is not None and data not in there:
        raise TableError(f"{tables / 'front'} has no front of data set {data}: it has {', '.join(there) or 'none'}")
    if data is None and len(there) > 1:
        raise TableError(f"{tables / 'front'} has fronts of several data sets: name one of {', '.join(there)}")
    front, exits = (of_data(read_table(tables, name), data) for name in ("front", "exits"))
    cuts = exits[exits["point"].isna() & (exits["split"] == "validation")].drop_duplicates(
        ["trial_id", "precision", "exit"]
    )
    _refuse_unknown(tables / "front", front, _OF_POINTS)
    _refuse_unknown(tables / "exits", cuts, ("exit", "accuracy_all", "cumulative_flops"))
    shared = ("energy_source", "latency_source", "device")
    energy_source, latency_source, device = (_shared(tables / "front", front[name]) for name in shared)
    classic = cuts[cuts["exit"] == cuts.groupby("trial_id")["exit"].transform("max")]
    best = classic.iloc[
        reference_position(*(classic[name].tolist() for name in ("precision", "accuracy_all", "cumulative_flops")))
    ]
    reference = Reference(
        str(best["trial_id"]),
        str(best["precision"]),
        float(best["accuracy_all"]),
        float(best["cumulative_flops"]),
        float(best["cumulative_energy_joules"]),
        float(best["cumulative_seconds"]),
    )
    points = front.assign(
        accuracy_drop=reference.accuracy - front["accuracy"],
        flops_share=front["flops"] / reference.flops,
        energy_share=front["energy_joules"] / reference.energy_joules,
        latency_share=front["latency_mean_seconds"] / reference.latency_seconds,
        test_accuracy_drop=front["test_classic_accuracy"] - front["test_accuracy"],
    )
    validation, test = (float(front[name].iloc[0]) for name in ("hypervolume", "test_hypervolume"))
    enough = reference.accuracy - tolerance - 1e-12
    best_static = _cheapest(
        cuts[(cuts["accuracy_all"] >= enough) & ~cuts.index.isin(classic.index)],
        "cumulative_flops",
        "cumulative_energy_joules",
    )
    chosen = recommend(front, reference.accuracy, tolerance)
    return FrontSummary(
        reference=reference,
        recommended=points.iloc[chosen.position],
        reason=chosen.reason,
        energy_source=energy_source,
        latency_source=latency_source,
        device=device,
        points=points,
        best_static=best_static,
        static_test_accuracy=None if best_static is None else _accuracy_on_test(exits, best_static),
        best_point=_cheapest(points[points["accuracy"] >= enough], "flops", "energy_joules"),
        thriftiest_point=_cheapest(
            points[(points["accuracy"] >= enough) & points["energy_joules"].notna()], "energy_joules", "flops"
        ),
        tolerance=tolerance,
        optimism=1 - test / validation if validation > 0 else None,
        mean_optimism=float((front["accuracy"] - front["test_accuracy"]).mean()),
        classic_optimism=float((front["classic_accuracy"] - front["test_classic_accuracy"]).mean()),
    )


def balanced_says_more(accuracy: float, balanced: float | None) -> bool:
    """Whether a balanced accuracy differs from the accuracy by a point or more: then classes are uneven.

    ``balanced`` is None or NaN in rows of before the column.
    """
    return balanced is not None and abs(balanced - accuracy) >= 0.01


def recommended_by(summary: FrontSummary, cost: str) -> FrontSummary:
    """The summary with the point that costs least by ``flops``, ``energy`` or ``seconds`` as the recommended one.

    Raises:
        TableError: no point's cost is known.
    """
    points = summary.points
    if not points[COST_COLUMNS[cost]].notna().any():
        raise TableError(f"--cost {cost}: the points of this study have no {cost}")
    chosen = recommend(points, summary.reference.accuracy, summary.tolerance, cost=cost)
    return replace(summary, recommended=points.iloc[chosen.position], reason=chosen.reason)


def reference_position(precisions: Sequence[str], accuracies: Sequence[float], flops: Sequence[float]) -> int:
    """The position of the reference network, which shares of costs and losses of accuracy are counted from.

    The reference network is the most accurate network without exits on validation; of equally accurate networks, the
    first with the fewest FLOPs. Networks in fp32 come before all others: a quantized network is a result of the study,
    and results are held against the reference.

    Args:
        precisions: of each network.
        accuracies: of each network's own classifier, on validation.
        flops: of each network without exits.
    """
    positions = [place for place, precision in enumerate(precisions) if precision == "fp32"]
    return min(positions or range(len(precisions)), key=lambda place: (-accuracies[place], flops[place]))


def _accuracy_on_test(exits: pd.DataFrame, cut: pd.Series) -> float | None:
    """The accuracy on test of a network cut at an exit, from the statistics of any front point of the network."""
    same = exits["split"] == "test"
    for name in ("trial_id", "precision", "exit"):
        same &= exits[name] == cut[name]
    found = exits.loc[same, "accuracy_all"]
    return None if found.empty else float(found.iloc[0])


_OF_POINTS = (
    *("number", "accuracy", "flops", "classic_accuracy"),
    *("test_accuracy", "test_accuracy_low", "test_accuracy_high", "test_classic_accuracy"),
)


def _refuse_unknown(table: Location, rows: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse rows without a finite value in columns that every row has."""
    if rows.empty:
        raise TableError(f"{table} has no rows: give `run` again, which writes it")
    for name in columns:
        if not np.isfinite(rows[name].to_numpy(dtype=np.float64, na_value=np.nan)).all():
            raise TableError(f"{table}: {name} is missing or not finite in some row: give `run` again, which writes it")


def _shared(table: Location, column: pd.Series) -> str | None:
    """The value that all rows of a front share: a front never mixes sources or devices."""
    values = column.dropna().unique()
    if len(values) > 1:
        raise TableError(f"{table}: {column.name} has several values in one front, which cannot be compared")
    return str(values[0]) if len(values) else None


def _cheapest(rows: pd.DataFrame, *columns: str) -> pd.Series | None:
    """The row that is cheapest by the first column; among equal rows, by the next column."""
    return None if rows.empty else rows.sort_values(list(columns), kind="stable").iloc[0]


def summary_json(summary: FrontSummary) -> dict[str, Any]:
    """The summary as plain values; lists of numbers are arrays."""
    return {
        "classic": {name: None if value != value else value for name, value in vars(summary.reference).items()},
        "energy_source": summary.energy_source,
        "latency_source": summary.latency_source,
        "device": summary.device,
        "tolerance": summary.tolerance,
        "optimism": {
            "hypervolume": summary.optimism,
            "accuracy": summary.mean_optimism,
            "classic_accuracy": summary.classic_optimism,
        },
        "recommended": {"point": int(summary.recommended["number"]), "reason": summary.reason},
        "best_point": None if summary.best_point is None else int(summary.best_point["number"]),
        "front": list(rows_of(summary.points)),
    }
