"""What all figures share: sizes, fonts, and how policies look."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from results.storage.atomic import write_atomic

COLUMN, PAGE = 3.3, 7.0
"""Widths in inches. Fonts have their true size where a figure is printed at its width."""
SMALL = 6.5
"""Points of the smallest text."""
GREY = "0.3"
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.0,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # a journal wants fonts embedded as TrueType
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "savefig.dpi": 300,
}
POLICY_COLOURS = {
    "predictive": "#0072B2",
    "hierarchical": "#E69F00",
    "optimal_stopping": "#D55E00",
    "head_thresholds": "#009E73",
    "placed": "#CC79A7",
    "static": "#666666",
    "classic": "#000000",
}
"""The colours of Okabe and Ito, which differ for all kinds of colour vision."""
POLICY_MARKERS = {
    "predictive": "o",
    "hierarchical": "s",
    "optimal_stopping": "^",
    "head_thresholds": "D",
    "placed": "v",
    "static": "x",
    "classic": "*",
}
"""Markers differ too, for print in black and white."""


@contextlib.contextmanager
def figure_file(path: Path, width: float, height: float) -> Iterator[Any]:
    """An empty figure of a size in inches, which is written to a file at the end.

    Files are drawn without a backend, whatever MPLBACKEND names, and settings of other figures stay as they are.

    Args:
        path: its suffix (png, svg, pdf) decides the format.
        width, height: in inches.
    """
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
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        content = BytesIO()
        figure.savefig(content, format=path.suffix[1:])
    write_atomic(path, content.getvalue())


def look(policy: str) -> dict[str, Any]:
    """Colour and marker of a policy; a policy from elsewhere is black."""
    colour, marker = POLICY_COLOURS.get(policy, "#000000"), POLICY_MARKERS.get(policy, "P")
    filled = {} if marker == "x" else {"markeredgecolor": "white", "markeredgewidth": 0.3}
    return {"color": colour, "marker": marker, "linestyle": "none", **filled}


def plain_log_axis(axes: Any) -> None:
    """A logarithmic axis of costs, whose ticks are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def note(figure: Any, text: str) -> None:
    """A remark below a figure, such as what the axes leave out."""
    if text:
        figure.supxlabel(text, fontsize=SMALL, color=GREY, x=0.01, ha="left")
