"""Policies at equal accuracy: loss against cost, a series for each family of policies."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd

from results.figures.style import GREY, PAGE, POLICY_COLOURS, figure_file, note, plain_log_axis

_PANELS = 6
_LOOKS = {
    "": ("o", "-"),
    "margin": ("D", "-"),
    "max_softmax": ("s", "--"),
    "entropy": ("^", "-."),
    "patience": ("v", ":"),
}
"""Criterion -> marker and line; the policy has the colour."""
_BARS = "static"
"""The family that the cheapest one is held against; both have their intervals drawn."""


def comparison_figure(rows: pd.DataFrame, objective: str, path: Path) -> None:
    """Draw what each family of policies costs at each loss, on images that did not choose.

    Where the rows report on test, costs and losses are those on test, else on validation by cross-fitting.

    Args:
        rows: of :class:`study.search.compare.Comparison`. At most six networks are drawn.
        objective: ``flops`` or ``energy``.
        path: of the picture; its suffix (png, svg, pdf) decides the format.
    """
    on_test = f"matched_test_{objective}_share" in rows
    share = f"matched_{'test_' if on_test else ''}{objective}_share"
    networks = list(rows.groupby(["trial_id", "precision"], sort=False))
    shown, columns = networks[:_PANELS], min(2, len(networks))
    lines = math.ceil(len(shown) / columns)
    with figure_file(path, PAGE, 0.7 + 2.3 * lines) as figure:
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, ((trial, precision), own) in zip(grid.flat, shown, strict=False):
            _panel(axes, own, share)
            if len(networks) > 1:
                axes.set_title(f"{trial} {precision}", loc="left")
        cost = "FLOPs" if objective == "flops" else objective
        for axes in grid[-1]:
            axes.set_xlabel(f"{cost} at this loss, % of " + ("the classic network" if columns == 1 else "classic"))
        for axes in grid[:, 0]:
            axes.set_ylabel("points lost on test" if on_test else "points lost on validation")
        handles, labels = _by_cost(figure.axes)
        figure.legend(handles, labels, loc="outside right center", labelspacing=0.6)
        split = "test images" if on_test else "validation images that did not choose (cross-fitting)"
        remark = f"Losses on {split}; settings chosen on validation. Bars: 95 % intervals of a cut and of the cheapest."
        if len(networks) > len(shown):
            remark += f" {len(shown)} of {len(networks)} networks are shown."
        note(figure, textwrap.fill(remark, 150))


def _panel(axes: Any, rows: pd.DataFrame, share: str) -> None:
    known = rows[rows[share].notna() & (rows["family"] != "classic")]
    real = known[~known["family"].str.contains("oracle")]
    # A family without a cost at some loss keeps that loss with the classic network alone.
    means = rows.assign(own=rows[share].fillna(1.0)).groupby("family")["own"].mean()
    cheapest = means[means.index.isin(real["family"])].idxmin() if len(real) else None
    for family, own in known.groupby("family", sort=False):
        costs, losses = own[share] * 100, own["drop"] * 100
        policy, _, criterion = str(family).partition(", ")
        if criterion == "oracle":
            axes.plot(costs, losses, ":", color=GREY, label="oracle: knows the labels")
            continue
        marker, style = _LOOKS.get(criterion, ("P", "-"))
        look = {"color": POLICY_COLOURS.get(policy, "black"), "marker": marker, "linestyle": style}
        bars = None
        if family in (_BARS, cheapest):
            low, high = own[f"{share}_low"] * 100, own[f"{share}_high"] * 100
            bars = [(costs - low).clip(lower=0), (high - costs).clip(lower=0)]
        axes.errorbar(costs, losses, xerr=bars, **look, markersize=3.2, elinewidth=0.7, capsize=1.5, label=family)
    deepest = max(float(known["drop"].max()), 0.001) * 100 if len(known) else 1.0
    axes.set_ylim(1.12 * deepest, -0.08 * deepest)
    if len(known) and known[share].max() > 4 * known[share].min():
        plain_log_axis(axes)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)


def _by_cost(panels: Any) -> tuple[list[Any], list[str]]:
    """Handles and labels of all series, in the order of their costs in the first panel that has them."""
    found: dict[str, tuple[float, Any]] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            line = handle[0] if isinstance(handle, tuple) else handle
            found.setdefault(label, (float(line.get_xdata().mean()), handle))
    ordered = sorted(found, key=lambda label: found[label][0])
    return [found[label][1] for label in ordered], ordered
