"""The front: accuracy against costs, beside the classic network and the network cut at an exit."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.figures.style import COLUMN, PAGE, figure_file, look, note, plain_log_axis
from results.pareto import non_dominated
from results.parts import of_data, read_table, rows_of
from results.point_text import policy_text, setting_text
from results.storage.paths import Location
from results.summary import summarize_front

_NEAR = 0.05
"""The axis of accuracies ends this far below the classic network, as a share of the images: settings below are cheap,
but nobody takes them."""
_CHEAP = 10.0
"""Where the median cost of the points shown is below this percentage, costs are drawn on a logarithmic scale."""
_COSTS = {
    "flops_share": ("FLOPs an image, % of the classic network{}", "cumulative_flops"),
    "energy_share": ("energy an image, % of the classic network{}", "cumulative_energy_joules"),
    "latency_share": ("mean latency, % of the classic network{}", "cumulative_seconds"),
}
"""Share -> (label, column of the static cuts)."""


def front_figure(tables: Location, path: Path, *, data: str | None = None) -> None:
    """Draw the front of a study over each cost, beside other operating points, static cuts and the classic network.

    Args:
        tables: the run folder's ``tables``.
        path: of the picture; its suffix (png, svg, pdf) decides the format.
        data: the data set; may be left out where the study has one.
    """
    summary = summarize_front(tables, data=data)
    searched, exits = (of_data(read_table(tables, name), data) for name in ("operating_points", "exits"))
    searched = searched[(searched["state"] == "COMPLETE") & searched["search"].isin(summary.points["search"])]
    cuts = exits[exits["point"].isna() & (exits["split"] == "validation")]
    reference, front = summary.reference, summary.points
    floor, words = _floor(front["accuracy"].to_numpy(), reference.accuracy)
    totals = {
        "flops_share": (reference.flops, f" ({reference.flops / 1e6:.4g} M)", "flops"),
        "energy_share": (
            reference.energy_joules,
            f"\n({reference.energy_joules * 1e3:.3g} mJ, {summary.energy_source})",
            "energy_joules",
        ),
        "latency_share": (
            reference.latency_seconds,
            f"\n({reference.latency_seconds * 1e3:.3g} ms, {summary.latency_source})",
            "latency_mean_seconds",
        ),
    }
    shares = [name for name in totals if front[name].notna().any()]
    with figure_file(path, COLUMN if len(shares) == 1 else PAGE, 2.9) as figure:
        for axes, share in zip(_row(figure, len(shares)), shares, strict=True):
            (label, cut_column), (total, words_of_total, column) = _COSTS[share], totals[share]
            beaten = searched[column] / total * 100, searched["accuracy"] * 100
            if len(searched) > len(front):
                axes.plot(*beaten, ".", color="0.8", markersize=2, zorder=0, label="other points searched")
            _cuts(axes, cuts[cut_column] / total * 100, cuts["accuracy_all"] * 100)
            _points(axes, front, share)
            _classic(axes, reference.accuracy, label.format(words_of_total))
            _limits(axes, front, share, floor, reference.accuracy)
            _recommended(axes, summary.recommended[share] * 100, summary.recommended["accuracy"] * 100)
        of_line = "The front is that of the study's objectives; its line joins the best of it for the cost shown."
        _finish(figure, [_settings(summary.recommended), f"{words} {of_line}"])


def exact_figure(points: pd.DataFrame, classic_accuracy: float, path: Path) -> None:
    """Draw an exact front over FLOPs and, where it has them, over energy and mean latency.

    Args:
        points: with the columns ``accuracy``, ``policy``, ``flops_share`` and perhaps the other shares.
        classic_accuracy: of the classic network, which costs 1.
        path: of the picture; its suffix (png, svg, pdf) decides the format.
    """
    points = points.rename(columns={"latency_mean_share": "latency_share"})
    shares = [name for name in _COSTS if name in points and points[name].notna().any()]
    floor, words = _floor(points["accuracy"].to_numpy(), classic_accuracy)
    with figure_file(path, COLUMN if len(shares) == 1 else PAGE, 2.9) as figure:
        for axes, share in zip(_row(figure, len(shares)), shares, strict=True):
            _points(axes, points, share)
            _classic(axes, classic_accuracy, _COSTS[share][0].format(""))
            _limits(axes, points, share, floor, classic_accuracy)
        _finish(figure, [f"{words} Exact front of the search space; its line joins the best for the cost shown."])


def _row(figure: Any, panels: int) -> Any:
    return figure.subplots(1, panels, sharey=True, squeeze=False)[0]


def _floor(accuracies: Any, classic: float) -> tuple[float, str]:
    """The least accuracy that is shown, and how many points are not shown, in words."""
    floor = min(classic, float(accuracies.max())) - _NEAR
    below = int((accuracies < floor).sum())
    if not below:
        return min(float(accuracies.min()), classic), ""
    return floor, f"{below} of {len(accuracies)} points of the front lie below the axis ({floor * 100:.1f} %)."


def _points(axes: Any, front: pd.DataFrame, share: str) -> None:
    """The points by policy, and a line through those that are not dominated in accuracy and one cost: with more
    objectives a front is a surface."""
    values = front[[share, "accuracy"]].to_numpy(dtype=np.float64)
    line = front[non_dominated(values, maximize=[False, True])].sort_values([share, "accuracy"])
    axes.step(line[share] * 100, line["accuracy"] * 100, where="post", color="0.3", linewidth=0.7, zorder=1)
    for policy, own in front.groupby("policy"):
        axes.plot(own[share] * 100, own["accuracy"] * 100, **look(str(policy)), markersize=3.5, label=policy, zorder=3)


def _cuts(axes: Any, costs: pd.Series, accuracies: pd.Series) -> None:
    """The best networks that are cut at an exit, as a dashed line."""
    values = np.column_stack([costs, accuracies]).astype(np.float64)
    best = values[non_dominated(values, maximize=[False, True])]
    best = best[np.argsort(best[:, 0], kind="stable")]
    axes.plot(*best.T, "x--", color="0.35", markersize=3.5, linewidth=0.7, label="network cut at one exit", zorder=2)


def _classic(axes: Any, accuracy: float, label: str) -> None:
    axes.plot(100, accuracy * 100, "k*", markersize=8, zorder=4)
    axes.annotate(
        "classic network", (100, accuracy * 100), (4, -5), textcoords="offset points", ha="right", va="top", fontsize=7
    )
    axes.set_xlabel(label)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)


def _limits(axes: Any, front: pd.DataFrame, share: str, floor: float, classic: float) -> None:
    shown = front.loc[front["accuracy"] >= floor - 1e-12, share].to_numpy(dtype=np.float64) * 100
    top = max(classic, float(front["accuracy"].max())) * 100
    space = max(top - floor * 100, 0.5)
    axes.set_ylim(floor * 100 - 0.04 * space, top + 0.08 * space)
    most = max(103.0, float(np.nanmax(shown)) * 1.02)
    if np.nanmedian(shown) < _CHEAP:
        plain_log_axis(axes)
        axes.set_xlim(float(np.nanmin(shown)) * 0.85, most * 1.12)
    else:
        axes.set_xlim(0, most)


def _recommended(axes: Any, cost: float, accuracy: float) -> None:
    """A ring around the recommended point, and a label where it hides no point."""
    ring = {"markersize": 9, "markerfacecolor": "none", "markeredgecolor": "black", "markeredgewidth": 1.2}
    axes.plot(cost, accuracy, "o", **ring, zorder=5)
    axes.annotate(
        "recommended",
        (cost, accuracy),
        _free_place(axes, cost, accuracy),
        textcoords="offset points",
        va="center",
        fontsize=7,
        zorder=6,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
        arrowprops={"arrowstyle": "-", "color": "black", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4},
    )


_LABEL = 44, 10
"""Width and height of the label of the recommended point, in points."""


def _free_place(axes: Any, cost: float, accuracy: float) -> tuple[float, float]:
    """Where the label of the recommended point begins, in points from it: where it covers the fewest other points.

    The limits of the axes are set. Their size is about that of the figure: the layout follows at the end.
    """
    wide, high = np.array(axes.figure.get_size_inches()) * 72 * (0.85 / len(axes.figure.axes), 0.6)
    to_axes = axes.transScale + axes.transLimits
    drawn = [np.column_stack(np.broadcast_arrays(*map(np.atleast_1d, line.get_data()))) for line in axes.lines]
    others = to_axes.transform(np.concatenate(drawn).astype(np.float64)) * (wide, high)
    at = to_axes.transform((cost, accuracy)) * (wide, high)
    best, fewest = (14.0, -14.0), np.inf
    for x in (14.0, 30.0, 60.0, -14.0 - _LABEL[0], -60.0 - _LABEL[0]):
        for y in (-14.0, 14.0, -30.0, -48.0, 30.0):
            left, middle = at[0] + x, at[1] + y
            inside = left >= 0 and left + _LABEL[0] <= wide and 6 <= middle <= high - 6
            hit = (others >= (left - 4, middle - _LABEL[1])) & (others <= (left + _LABEL[0] + 4, middle + _LABEL[1]))
            covered = int(hit.all(axis=1).sum())
            if inside and covered < fewest:
                best, fewest = (x, y), covered
    return best


def _settings(recommended: pd.Series) -> str:
    """The recommended point, its settings, its costs and its accuracy on test, in a line."""
    point = next(iter(rows_of(recommended.to_frame().T)))
    setting = ", ".join(part for part in (policy_text(point), point["precision"], setting_text(point)) if part)
    test, low, high = (point[f"test_accuracy{end}"] * 100 for end in ("", "_low", "_high"))
    lost = f"{-point['accuracy_drop'] * 100:+.2f}".replace("-", "\N{MINUS SIGN}")
    return (
        f"Recommended: point {point['number']} ({setting}) with {point['flops_share'] * 100:.1f} % of the FLOPs, "
        f"{lost} points on validation, test {test:.1f} % [{low:.1f}, {high:.1f}]."
    )


def _finish(figure: Any, remarks: Sequence[str]) -> None:
    figure.axes[0].set_ylabel("accuracy on validation, %")
    narrow = len(figure.axes) == 1
    figure.legend(*_shown(figure), loc="outside upper center", ncols=2 if narrow else 6, columnspacing=1.2)
    note(figure, "\n".join(textwrap.fill(remark.strip(), 68 if narrow else 150) for remark in remarks))


def _shown(figure: Any) -> tuple[list[Any], list[str]]:
    """Handles and labels of the series that have a point within the axes."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            costs, accuracies = np.asarray(handle.get_xdata()), np.asarray(handle.get_ydata())
            if ((costs >= left) & (costs <= right) & (accuracies >= bottom) & (accuracies <= top)).any():
                found.setdefault(label, handle)
    return list(found.values()), list(found)
