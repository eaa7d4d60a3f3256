"""The style and the parts that all charts share, as plain values in the language of Vega-Lite.

Text and grid take their colours from the parameters ``ink``, ``faint`` and ``paper``, which the page sets, so that one
chart serves light and dark pages and paper. Series differ in colour and in shape or dash: the colours have a contrast
of 3 and more on white and on black, and the shapes tell the series apart without colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study.report.blocks import Spec

Row = Mapping[str, Any]
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
COLORS = ("#2f7fd0", "#c9680a", "#0f9d76", "#b05ac8", "#d2493f", "#8a7433", "#1d93a8")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 4], [1, 4])
INK, FAINT, PAPER = ({"expr": name} for name in ("ink", "faint", "paper"))
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
ACCENT = COLORS[0]
WHOLE: Spec = {"zero": False, "nice": False, "padding": 10}
"""A scale of whole numbers, such as exits and epochs."""


def chart(height: int, content: Spec) -> Spec:
    """A chart as wide as its place on the page, with the style that all charts share."""
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "background": "transparent",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": {"left": 2, "right": 10, "top": 6, "bottom": 2},
        **content,
        "params": [
            {"name": "ink", "value": "#1b1f24"},
            {"name": "faint", "value": "#d9dde3"},
            {"name": "paper", "value": "#ffffff"},
            *content.get("params", []),
        ],
        "config": {
            "font": _FONT,
            "view": {"stroke": None},
            "axis": {
                "labelColor": INK,
                "titleColor": INK,
                "gridColor": FAINT,
                "domainColor": FAINT,
                "tickColor": FAINT,
                "labelFontSize": 12,
                "titleFontSize": 12,
                "titleFontWeight": 500,
                "titlePadding": 8,
                "labelOverlap": True,
            },
            "legend": {
                "labelColor": INK,
                "titleColor": INK,
                "labelFontSize": 12,
                "titleFontSize": 12,
                "orient": "top",
                "direction": "horizontal",
                "labelLimit": 260,
                "symbolSize": 90,
                "layout": {"top": {"direction": "vertical", "anchor": "start", "margin": 2}},
                "title": None,
                "columnPadding": 14,
            },
            "text": {"color": INK, "fontSize": 12},
            "rule": {"color": INK},
        },
    }


def number(field: str, title: str | None, form: str = "", **more: Any) -> Spec:
    """An encoding of a number."""
    axis: Spec = {"title": title, "format": form} if form else {"title": title}
    scale = more.pop("scale", {"zero": False})
    axis |= more.pop("axis", {})
    return {"field": field, "type": "quantitative", "axis": axis, "scale": scale, **more}


def tip(field: str, title: str, form: str = "") -> Spec:
    """A line of a tooltip; a field with a format is a number."""
    kind = "quantitative" if form else "nominal"
    return {"field": field, "type": kind, "title": title, **({"format": form} if form else {})}


def exit_axis(field: str = "exit", title: str = "exit") -> Spec:
    """An axis with a place for each exit."""
    axis = {"title": title, "labelAngle": 0, "labelOverlap": True, "labelSeparation": 5}
    return {"field": field, "type": "ordinal", "axis": axis}


def series(field: str, names: Sequence[str] | None = None, *, dashes: bool = False) -> dict[str, Spec]:
    """Colour, and shape or dash, for the series of a chart."""
    count = len(COLORS)
    domain: Spec = {}
    if names is not None:
        domain = {"domain": list(names)}
    base: Spec = {"field": field, "type": "nominal"}
    if dashes:
        return {
            "color": {**base, "scale": {**domain, "range": list(COLORS)}},
            "strokeDash": {**base, "scale": {**domain, "range": list(DASHES)}},
        }
    return {
        "color": {**base, "scale": {**domain, "range": list(COLORS)[:count]}},
        "shape": {**base, "scale": {**domain, "range": list(SHAPES)}},
    }
