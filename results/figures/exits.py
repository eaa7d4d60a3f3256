"""Exits: how accurate each is, where images stop, and how well the engine predicts where they stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

from results.figures.style import COLUMN, POLICY_COLOURS, SMALL, figure_file, note

_LINE = 68
_SEEN = 0.05
"""Percentage of the images: the accuracy of fewer images that stop at an exit says nothing."""
_FEW = 1.0
"""Percentage of the images: the accuracy of fewer images is drawn as an open mark."""
_ALL, _STOPPED = POLICY_COLOURS["predictive"], POLICY_COLOURS["optimal_stopping"]


def exits_figure(statistics: pd.DataFrame, title: str, path: Path) -> None:
    """Draw the accuracy of each exit, and the share of the images that stop there.

    Args:
        statistics: a row for each exit, the classifier last: ``exit``, ``accuracy_all``, ``accuracy_stopped`` and
            ``share_stopped``.
        title: names the network, the policy and the split.
        path: of the picture; its suffix (png, svg, pdf) decides the format.
    """
    exits = statistics["exit"].to_numpy()
    accuracy, stopped = (statistics[name].to_numpy(dtype=float) * 100 for name in ("accuracy_all", "accuracy_stopped"))
    share = statistics["share_stopped"].to_numpy(dtype=float) * 100
    with figure_file(path, COLUMN, 3.3) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        above.axhline(accuracy[-1], color="black", linewidth=0.7, linestyle="--", label="classic network", zorder=0)
        above.plot(exits, accuracy, "o-", color=_ALL, markersize=3, label="exit on all images")
        many, few = share >= _FEW, (share >= _SEEN) & (share < _FEW)
        above.plot(exits[many], stopped[many], "D", color=_STOPPED, markersize=3.5, label="images that stop here")
        if few.any():
            label = f"under {_FEW:g} % of the images"
            above.plot(
                exits[few], stopped[few], "D", color=_STOPPED, markersize=3.5, markerfacecolor="white", label=label
            )
        above.set_ylabel("accuracy, %")
        below.bar(exits, share, color=_STOPPED, width=0.75)
        below.set_ylabel("images that\nstop here, %")
        for place, value in zip(exits, share, strict=True):
            if value >= 1:
                below.annotate(f"{value:.0f}", (place, value), (0, 1), textcoords="offset points", ha="center",
                               fontsize=SMALL)  # fmt: skip
        below.margins(y=0.15)
        every = max(1, round(len(exits) / 10))
        ticks = [int(exit) for exit in exits[: -every or -1 : every]]
        below.set_xticks([*ticks, int(exits[-1])], [*map(str, ticks), "C"])
        below.set_xlabel("exit (C: the classifier, no exit stops)")
        for axes in (above, below):
            axes.grid(axis="y", alpha=0.25, linewidth=0.5)
            axes.set_axisbelow(True)
        figure.legend(loc="outside upper center", ncols=2, columnspacing=1.0)  # inside, it would cover marks
        note(figure, fill(title, _LINE))


def confusion_figure(confusion: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw the predicted against the true distance to the exit that stops.

    Args:
        confusion: a row for each predicted distance: ``predicted``, its name, and ``true <name>``, the numbers of
            images.
        title: names the network, the setting and the split.
        path: of the picture; its suffix (png, svg, pdf) decides the format.
    """
    names = [str(row["predicted"]) for row in confusion]
    counts = np.array([[row[f"true {name}"] for name in names] for row in confusion], dtype=float)
    total = counts.sum()
    shares = counts / max(total, 1) * 100
    with figure_file(path, COLUMN, 3.3) as figure:
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0)
        dark = shares > 0.6 * max(shares.max(), 1e-12)
        for (row, column), value in np.ndenumerate(shares):
            if counts[row, column]:
                text = f"{value:.0f}" if value >= 0.95 else "<1"
                colour = "white" if dark[row, column] else "black"
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        for place in range(len(names)):  # the diagonal: right predictions
            axes.add_patch(_square(place))
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("true distance to the exit that stops, exits")
        axes.set_ylabel("predicted distance, exits")
        axes.spines[["top", "right"]].set_visible(True)
        right = np.trace(counts) / total if total else float("nan")
        said = f"{right * 100:.1f} % of {total:.0f} predictions are right (framed)" if total else "no prediction"
        note(figure, f"{fill(f'% of the predictions; {said}.', _LINE)}\n{fill(title, _LINE)}")


def _square(place: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=0.8)
