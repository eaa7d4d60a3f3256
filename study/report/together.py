"""Several studies in one plot: their fronts, and what they cost at equal accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from results.parts import rows_of
from results.point_text import policy_text, setting_text
from results.summary import FrontSummary, Reference
from study.report.blocks import Column, Figure, Section, Table, table_of
from study.report.first import classic_on_test
from study.report.overlay_chart import overlay
from study.report.source import Source
from study.report.wording import four_digits, interval_text, unit_of

_LOSSES = (0.0, 0.005, 0.01, 0.02)
"""Accuracies at which studies are compared: that of the weakest classic network minus these shares."""
_MOST = 400


def together_section(sources: Sequence[Source]) -> Section:
    """The fronts of some studies overlaid, and differences at equal accuracy."""
    name, title = "together", "The studies side by side"
    with_front = [one for one in sources if one.summary is not None]
    lacks = [f"{label_of(one, sources)} has no front yet." for one in sources if one.summary is None]
    if len(with_front) < 2:
        return Section(name=name, title=title, lacks=[*lacks, "There are fewer than two fronts to compare."])
    labels = [label_of(one, sources) for one in with_front]
    summaries = [one.summary for one in with_front if one.summary is not None]
    fronts = [one.points for one in summaries]
    unit = unit_of("flops", max(float(front["classic_flops"].max()) for front in fronts))
    rows = [
        {
            "study": label,
            "number": int(row["number"]),
            "setting": f"{policy_text(row)}, {setting_text(row)}",
            "x": float(f"{row['test_flops'] / unit.size:.6g}"),
            "accuracy": round(row["test_accuracy"], 5),
        }
        for label, front in zip(labels, fronts, strict=True)
        for row in rows_of(_thinned(front))
    ]
    classics = [
        {"study": label, "x": float(f"{one.flops / unit.size:.6g}"), "accuracy": round(accuracy, 5)}
        for label, summary in zip(labels, summaries, strict=True)
        for one, accuracy in [_classic(summary)]
    ]
    kinds = {"study": Column(heading="Study"), "number": Column(heading="Point", kind="count")}
    kinds |= {"setting": Column(heading="Setting"), "accuracy": Column(heading="Test accuracy", kind="accuracy")}
    kinds |= {"x": Column(heading=f"FLOPs on test, {unit.name}", kind="number")}
    if len({one.data for one in with_front}) > 1:
        lacks.append("The studies have different data sets: their accuracies are not those of one task.")
    return Section(
        name=name,
        title=title,
        see="Where the curve of one study lies above another, that study is more accurate at the same cost. A curve "
        "joins the points of a study that no other one of its points beats on test; stars are the classic networks.",
        figures=[
            Figure(
                name="together",
                title="The fronts of the studies on their test images",
                spec=overlay(rows, classics, labels, f"FLOPs per image on test images, {unit.name}"),
                table=table_of("The points of the fronts", pd.DataFrame(rows), kinds),
            )
        ],
        tables=[_equal_accuracy(labels, fronts, unit.size, unit.name)],
        lacks=lacks,
    )


def label_of(source: Source, sources: Sequence[Source]) -> str:
    """The name of a study among some: as short as it can be, and different from the others."""
    name = source.spec.name
    if len(source.spec.data.names) > 1:
        name = f"{name}, {source.data}"
    same = [one for one in sources if (one.spec.name, one.data) == (source.spec.name, source.data)]
    return name if len(same) < 2 else f"{name} ({source.folder})"


def _classic(summary: FrontSummary) -> tuple[Reference, float]:
    """The classic network, and its accuracy on test; on validation where test images saw none of its points."""
    on_test = classic_on_test(summary)
    return summary.reference, summary.reference.accuracy if on_test is None else on_test


def _thinned(front: pd.DataFrame) -> pd.DataFrame:
    """At most :data:`_MOST` points of a front, cheapest first; most of those that lose at most 5 points."""
    ranked = front.sort_values("test_flops")
    useful = ranked["accuracy_drop"] <= 0.05
    parts = [(ranked[useful], _MOST * 3 // 4), (ranked[~useful], _MOST // 4)]
    kept = [part.iloc[np.unique(np.linspace(0, len(part) - 1, min(most, len(part))).astype(np.int64))]
            for part, most in parts if len(part)]  # fmt: skip
    return pd.concat(kept).sort_values("test_flops")


def _equal_accuracy(labels: Sequence[str], fronts: Sequence[pd.DataFrame], size: float, unit: str) -> Table:
    """The cheapest point of each study that reaches an accuracy on validation, reported on test.

    The first study is the one that others are held against. The interval of a difference takes the images of the two
    studies as independent samples.
    """
    least = min(float((front["accuracy"] + front["accuracy_drop"]).iloc[0]) for front in fronts)
    rows: list[list[Any]] = []
    for lost in _LOSSES:
        target = least - lost
        chosen = [_cheapest(front, target) for front in fronts]
        base = chosen[0]
        for label, point in zip(labels, chosen, strict=True):
            if point is None:
                rows.append([target, label, *[None] * 6])
                continue
            own = interval_text(point["test_accuracy_low"], point["test_accuracy_high"])
            cells = [int(point["number"]), point["test_accuracy"], own, point["test_flops"] / size]
            rows.append([target, label, *cells, *_difference(base, point, label == labels[0], size)])
    return Table(
        title="What the studies cost at equal accuracy",
        columns=[
            Column(heading="Accuracy at least", kind="accuracy", help="On validation images, which choose the points."),
            Column(heading="Study"),
            Column(heading="Point", kind="count"),
            Column(heading="Test accuracy", kind="accuracy"),
            Column(heading="95 % interval"),
            Column(heading=f"FLOPs on test, {unit}", kind="number"),
            Column(heading=f"more than {labels[0]}, {unit}", kind="number", help="Negative: the study needs less."),
            Column(heading="95 % interval of the difference"),
        ],
        rows=rows,
        note="The accuracies count down from the classic network of the weakest study. Intervals of differences take "
        "the test images of the studies as independent samples; of studies on the same images they are too wide.",
    )


def _cheapest(front: pd.DataFrame, accuracy: float) -> dict[str, Any] | None:
    reached = front[front["accuracy"] >= accuracy - 1e-12]
    if reached.empty:
        return None
    return next(iter(rows_of(reached.sort_values("flops", kind="stable").head(1))))


def _difference(base: dict[str, Any] | None, point: dict[str, Any], is_base: bool, size: float) -> list[Any]:
    if base is None or is_base:
        return [None, None]
    gap = (point["test_flops"] - base["test_flops"]) / size
    halves = [(one["test_flops_high"] - one["test_flops_low"]) / 2 / size for one in (base, point)]
    half = float(np.hypot(*halves))
    return [gap, f"{four_digits(gap - half)} to {four_digits(gap + half)}"]
