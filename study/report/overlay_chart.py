"""The chart of several studies: their fronts on test images in one plot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from results.pareto import non_dominated
from study.report.blocks import Spec
from study.report.chart_style import INK, Row, chart, number, series, tip
from study.report.point_charts import STAR

_WIDE = 5.0
"""Costs whose largest is more than so many times the smallest have a logarithmic axis: cheap fronts would crowd."""
_NEAR = 0.02
"""Accuracy below the least accurate classic network, as a share, down to which the axis goes at first."""


def overlay(rows: Sequence[Row], classics: Sequence[Row], names: Sequence[str], cost_title: str) -> Spec:
    """The fronts of several studies: test accuracy against a cost, near the classic networks or whole.

    The page sets the parameters ``x0 x1 y0 y1`` (the part that is seen) to one of the two windows in ``usermeta``.

    Args:
        rows: points of the fronts ``{study, number, setting, x, accuracy}``.
        classics: the classic network of each study ``{study, x, accuracy}``.
        names: of the studies.
        cost_title: name and unit of the cost.
    """
    everything = [*rows, *classics]
    low = min(one["accuracy"] for one in classics) - _NEAR
    near = [one for one in everything if one["accuracy"] >= low]
    costs = [one["x"] for one in near]
    wide = max(costs) > _WIDE * min(costs) > 0
    windows = {"near": _window(near, log=wide), "all": _window(everything, log=wide)}
    kind = {"type": "log"} if wide else {"zero": False}
    title = f"{cost_title} (logarithmic)" if wide else cost_title
    scale = {**kind, "domain": [{"expr": "x0"}, {"expr": "x1"}], "nice": False}
    x = number("x", title, axis={"tickCount": 8}, scale=scale)
    y = number(
        "accuracy",
        "accuracy on test images",
        ".2~%",
        axis={"tickCount": 8},
        scale={"domain": [{"expr": "y0"}, {"expr": "y1"}], "nice": False, "zero": False},
    )
    tips = [tip("study", "study"), tip("accuracy", "test accuracy", ".2%"), tip("x", cost_title, ".4~g")]
    return chart(
        400,
        {
            "usermeta": windows,
            "params": [{"name": name, "value": value} for name, value in windows["near"].items()],
            "encoding": {"x": x, "y": y, "color": series("study", names)["color"]},
            "layer": [
                {
                    "data": {"values": [row for name in names for row in _best(rows, name)]},
                    "mark": {
                        "type": "line",
                        "clip": True,
                        "interpolate": "step-after",
                        "strokeWidth": 1.4,
                        "opacity": 0.8,
                    },
                    "encoding": {"strokeDash": series("study", names, dashes=True)["strokeDash"]},
                },
                {
                    "data": {"values": list(rows)},
                    "mark": {"type": "point", "clip": True, "filled": True, "size": 34, "opacity": 0.75},
                    "encoding": {
                        "shape": series("study", names)["shape"],
                        "tooltip": [tips[0], tip("number", "point", "d"), tip("setting", "setting"), *tips[1:]],
                    },
                },
                {
                    "data": {"values": [{**one, "what": f"classic network of {one['study']}"} for one in classics]},
                    "mark": {"type": "point", "clip": True, "filled": True, "size": 170, "strokeWidth": 1.2},
                    "encoding": {
                        "shape": {"value": STAR},
                        "stroke": {"value": INK},
                        "tooltip": [tip("what", "reference"), *tips[1:]],
                    },
                },
            ],
        },
    )


def _window(points: Sequence[Row], *, log: bool) -> dict[str, float]:
    """The ends of both axes around some points, with a margin."""
    costs, accuracies = (np.array([one[name] for one in points]) for name in ("x", "accuracy"))
    x = np.log(costs) if log else costs
    margins = [(float(np.ptp(one)) or 0.02) * 0.05 for one in (x, accuracies)]
    ends = np.array([x.min() - margins[0], x.max() + margins[0]])
    low, high = np.exp(ends) if log else np.maximum(ends, 0.0)
    bottom, top = accuracies.min() - margins[1], accuracies.max() + margins[1]
    return {"x0": float(low), "x1": float(high), "y0": float(bottom), "y1": float(top)}


def _best(rows: Sequence[Row], name: str) -> list[Row]:
    """The points of a study that no other one of its points beats on test, from cheap to dear."""
    own = sorted((row for row in rows if row["study"] == name), key=lambda row: (row["x"], -row["accuracy"]))
    values = np.array([[row["x"], row["accuracy"]] for row in own])
    return [row for row, best in zip(own, non_dominated(values, maximize=[False, True]), strict=True) if best]
