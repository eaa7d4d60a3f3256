"""Figures of a study."""

from __future__ import annotations

import contextlib
import os
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.pareto import non_dominated
from results.parts import of_data, read_table
from results.storage.atomic import write_atomic
from results.storage.paths import Location
from results.summary import summarize_front

_WIDE = 50
"""Costs whose largest value is more than this multiple of the smallest are drawn on a logarithmic scale."""


def front_figure(tables: Location, path: Path, *, data: str | None = None) -> None:
    """Draw the front over FLOPs and over energy, beside all operating points, the static cuts and the classic network.

    Args:
        tables: the run folder's ``tables``.
        path: of the picture; its suffix (png, svg, pdf) decides the format.
    """
    summary = summarize_front(tables, data=data)
    points, exits = (of_data(read_table(tables, name), data) for name in ("operating_points", "exits"))
    points = points[(points["state"] == "COMPLETE") & points["search"].isin(summary.points["search"])]
    cuts = exits[exits["point"].isna() & (exits["split"] == "validation")]
    panels = [("flops", "cumulative_flops", 1e-6, "MFLOPs per image")]
    if summary.energy_source:
        energy = f"energy, mJ per image ({summary.energy_source})"
        panels.append(("energy_joules", "cumulative_energy_joules", 1e3, energy))
    figure = _figure(10, 4)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (column, cut_column, unit, label) in zip(grid, panels, strict=True):
        costs, accuracies = points[column] * unit, points["accuracy"] * 100
        axes.scatter(costs, accuracies, s=8, color="0.75", label="operating points")
        costs, accuracies = cuts[cut_column] * unit, cuts["accuracy_all"] * 100
        axes.scatter(costs, accuracies, s=18, marker="x", color="C1", label="static cuts")
        costs, accuracies = summary.points[column] * unit, summary.points["accuracy"] * 100
        axes.scatter(costs, accuracies, s=16, color="C0", label="front of all objectives")
        _front_line(axes, summary.points, column, unit)
        _classic(axes, getattr(summary.reference, column) * unit, summary.reference.accuracy, label)
        if points[column].max() > _WIDE * points[column].min():
            axes.set_xscale("log")
    floor = min(summary.points["accuracy"].min(), summary.reference.accuracy) * 100
    grid[0].set_ylim(bottom=max(0.0, floor - 5))
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    """An empty figure of a size in inches. Files are drawn without a backend, whatever MPLBACKEND names."""
    first = "matplotlib" not in sys.modules
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        # With a backend that is not installed, such as that of a notebook, the import itself would fail.
        import matplotlib
        from matplotlib.figure import Figure
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if first and backend:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend  # as the import would have set it
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    figure.axes[0].set_ylabel("validation accuracy, %")
    figure.axes[0].legend(loc="lower right", fontsize="small")
    content = BytesIO()
    figure.savefig(content, dpi=150, format=path.suffix[1:])
    write_atomic(path, content.getvalue())


def _classic(axes: Any, cost: float, accuracy: float, label: str) -> None:
    """Draw the classic network, and what every panel has."""
    axes.plot(cost, accuracy * 100, "k*", markersize=12, label="classic network")
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def _front_line(axes: Any, front: pd.DataFrame, column: str, unit: float, label: str | None = None) -> None:
    """Join the points that are not dominated in accuracy and one cost: with more objectives a front is a surface."""
    values = front[[column, "accuracy"]].to_numpy(dtype=np.float64)
    line = front[non_dominated(values, maximize=[False, True])].sort_values([column, "accuracy"])
    axes.step(line[column] * unit, line["accuracy"] * 100, where="post", color="C0", label=label)


def exact_figure(points: pd.DataFrame, classic_accuracy: float, path: Path) -> None:
    """Draw an exact front over FLOPs and, where it has energies, over energy.

    Args:
        points: with the columns ``accuracy``, ``flops_share`` and perhaps ``energy_share``.
        classic_accuracy: of the classic network, which costs 1.
        path: of the picture; its suffix (png, svg, pdf) decides the format.
    """
    names = [name for name in ("flops_share", "energy_share") if name in points and points[name].notna().any()]
    figure = _figure(5 * len(names), 4)
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        axes.scatter(points[name] * 100, points["accuracy"] * 100, s=4, color="0.75", label="exact front")
        _front_line(axes, points, name, 100, "of these two objectives")
        cost = name.removesuffix("_share").replace("flops", "FLOPs")
        _classic(axes, 100, classic_accuracy, f"{cost}, % of the classic network")
    _save(figure, path)
