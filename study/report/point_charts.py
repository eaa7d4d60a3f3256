"""The charts that show operating points; one function a chart. The page fills most of them with the points."""

from __future__ import annotations

from collections.abc import Sequence

from study.report.blocks import Spec
from study.report.chart_style import ACCENT, COLORS, DASHES, INK, PAPER, Row, chart, exit_axis, number, series, tip

STAR = (
    "M0,-1L0.235,-0.324L0.951,-0.309L0.38,0.124L0.588,0.809L0,0.4L-0.588,0.809L-0.38,0.124L-0.951,-0.309L-0.235,-0.324Z"
)
_X = "M-1,-1L1,1M-1,1L1,-1"


def _with_halo(text: Spec) -> list[Spec]:
    """A layer of text, and below it the same text as a broad line in the colour of the page: it stays readable."""
    halo = {**text["mark"], "stroke": PAPER, "strokeWidth": 4, "strokeJoin": "round", "fill": PAPER}
    return [{**text, "mark": halo}, text]


def front(cost_title: str, unit: float, policies: Sequence[str], marks: Sequence[Row], lines: Sequence[Row]) -> Spec:
    """Accuracy against a cost: all operating points, the front, the classic network, cuts and constraints.

    The page fills the data set ``points`` (x, accuracy, series, shown, setting, number, test, certified, ..) and sets
    the parameters ``x0 x1 y0 y1`` (the part that is seen) and ``limits`` (1 where constraints are shaded).

    Args:
        cost_title: name and unit of the cost.
        unit: base units in a unit of the axis.
        policies: the series.
        marks: reference points ``{x, accuracy, name}``: classic network, cuts, smaller network.
        lines: corners ``{line, x, accuracy}``.
    """
    x = number(
        "x",
        cost_title,
        axis={"tickCount": 6, "grid": True},
        scale={"domain": [{"expr": "x0"}, {"expr": "x1"}], "nice": False, "zero": False},
    )
    y = number(
        "accuracy",
        "accuracy on validation images",
        ".2~%",
        axis={"tickCount": 6},
        scale={"domain": [{"expr": "y0"}, {"expr": "y1"}], "nice": False, "zero": False},
    )
    tips = [
        tip("number", "point", "d"),
        tip("policy", "policy"),
        tip("setting", "setting"),
        tip("network", "network"),
        tip("accuracy", "validation accuracy", ".2%"),
        tip("test", "test accuracy"),
        tip("x", cost_title, ".4~g"),
        tip("state", "state"),
    ]
    shaded = {"opacity": {"condition": {"test": "limits", "value": 0.13}, "value": 0}}
    names = list(dict.fromkeys(str(one["name"]) for one in marks))
    scaled = [{**one, "x": one["x"] / unit} for one in lines]
    line_names = list(dict.fromkeys(str(one["line"]) for one in lines))
    return chart(
        470,
        {
            "params": [
                {"name": "x0", "value": 0},
                {"name": "x1", "value": 1},
                {"name": "y0", "value": 0},
                {"name": "y1", "value": 1},
                {"name": "limits", "value": True},
                {"name": "labelLeft", "value": False},
                {"name": "labelDy", "value": -14},
                {"name": "labelShort", "value": False},
                {"name": "dot", "value": 46},
            ],
            "datasets": {"points": [], "fixed": [], "bounds": []},
            "layer": [
                {
                    "data": {"name": "bounds"},
                    "transform": [{"filter": "datum.axis === 'accuracy'"}],
                    "mark": {"type": "rect", "clip": True, "color": COLORS[4]},
                    "encoding": {
                        "y": {"field": "value", "type": "quantitative"},
                        "y2": {"datum": {"expr": "y0"}},
                        **shaded,
                    },
                },
                {
                    "data": {"name": "bounds"},
                    "transform": [{"filter": "datum.axis === 'cost'"}],
                    "mark": {"type": "rect", "clip": True, "color": COLORS[4]},
                    "encoding": {
                        "x": {"field": "value", "type": "quantitative"},
                        "x2": {"datum": {"expr": "x1"}},
                        **shaded,
                    },
                },
                *_with_halo(
                    {
                        "data": {"name": "bounds"},
                        "transform": [{"filter": "datum.axis === 'accuracy' && datum.value >= y0"}],
                        "mark": {"type": "text", "align": "right", "baseline": "top", "dy": 4, "dx": -4, "clip": True},
                        "encoding": {
                            "x": {"datum": {"expr": "x1"}, "type": "quantitative"},
                            "y": {"field": "value", "type": "quantitative"},
                            "text": {"field": "label"},
                            "opacity": {"condition": {"test": "limits", "value": 0.9}, "value": 0},
                        },
                    }
                ),
                {
                    "data": {"name": "bounds"},
                    "transform": [{"filter": "datum.axis === 'classic'"}],
                    "mark": {"type": "rule", "strokeDash": [2, 3], "opacity": 0.7, "clip": True},
                    "encoding": {"y": {"field": "value", "type": "quantitative"}},
                },
                {
                    "data": {"values": scaled},
                    "mark": {
                        "type": "line",
                        "clip": True,
                        "interpolate": "step-after",
                        "strokeWidth": 1.3,
                        "opacity": 0.75,
                    },
                    "encoding": {
                        "x": x,
                        "y": y,
                        "stroke": {"value": INK},
                        "strokeDash": {
                            "field": "line",
                            "type": "nominal",
                            "scale": {"domain": line_names or ["front"], "range": list(DASHES)},
                        },
                    },
                },
                {
                    "name": "points",
                    "data": {"name": "points"},
                    "params": [{"name": "brush", "select": {"type": "interval", "encodings": ["x", "y"]}}],
                    "mark": {"type": "point", "filled": True, "clip": True, "tooltip": True},
                    "encoding": {
                        "x": x,
                        "y": y,
                        **series("series", policies),
                        "opacity": {
                            "condition": [
                                {"test": "datum.shown && !(limits && datum.broken && !datum.front)", "value": 0.85},
                                {"test": "datum.shown", "value": 0.3},
                            ],
                            "value": 0.08,
                        },
                        "size": {"condition": {"test": "datum.front", "value": {"expr": "dot"}}, "value": 20},
                        "tooltip": tips,
                    },
                },
                {
                    "data": {"values": list(marks)},
                    "mark": {"type": "point", "clip": True, "filled": False, "size": 130, "strokeWidth": 2.2},
                    "encoding": {
                        "x": x,
                        "y": y,
                        "stroke": {"value": INK},
                        "shape": {
                            "field": "name",
                            "type": "nominal",
                            "scale": {
                                "domain": names,
                                "range": [STAR, "M-1,-1L1,1M-1,1L1,-1", "stroke"][: len(names)],
                            },
                        },
                        "tooltip": [
                            tip("label", "reference"),
                            tip("accuracy", "validation accuracy", ".2%"),
                            tip("x", cost_title, ".4~g"),
                        ],
                    },
                },
                *_with_halo(
                    {
                        "data": {"name": "bounds"},
                        "transform": [{"filter": "datum.axis === 'classic'"}],
                        "mark": {
                            "type": "text",
                            "align": {"expr": "labelLeft ? 'left' : 'right'"},
                            "baseline": "middle",
                            "dy": {"expr": "labelDy"},
                            "dx": {"expr": "labelLeft ? 6 : -4"},
                            "clip": True,
                        },
                        "encoding": {
                            "x": {"datum": {"expr": "labelLeft ? x0 : x1"}, "type": "quantitative"},
                            "y": {"field": "value", "type": "quantitative"},
                            "text": {"value": {"expr": "labelShort ? datum.short : datum.label"}},
                        },
                    }
                ),
                {
                    "data": {"name": "fixed"},
                    "mark": {"type": "point", "shape": "circle", "size": 330, "strokeWidth": 2.5, "clip": True},
                    "encoding": {"x": x, "y": y, "stroke": {"value": INK}},
                },
                *_with_halo(
                    {
                        "data": {"name": "fixed"},
                        "mark": {
                            "type": "text",
                            "align": {"expr": "datum.x > (x0 + x1) / 2 ? 'right' : 'left'"},
                            "dx": {"expr": "datum.x > (x0 + x1) / 2 ? -16 : 16"},
                            "dy": 14,
                            "fontWeight": 600,
                            "clip": True,
                        },
                        "encoding": {"x": x, "y": y, "text": {"field": "label"}},
                    }
                ),
            ],
            "resolve": {"scale": {"shape": "independent", "color": "independent", "strokeDash": "independent"}},
        },
    )


def stops(exits: int) -> Spec:
    """Share of images that stop at each exit; the page fills ``stops`` (exit, share, right, all)."""
    return chart(
        220,
        {
            "data": {"name": "stops"},
            "datasets": {"stops": []},
            "mark": {"type": "bar", "color": ACCENT, "cornerRadiusEnd": 2},
            "encoding": {
                "x": {**exit_axis(title=f"exit ({exits} is the classifier)"), "scale": {"domain": _numbered(exits)}},
                "y": number("share", "share of the test images", ".0%", scale={"zero": True}, stack=None),
                "tooltip": [
                    tip("exit", "exit", "d"),
                    tip("share", "images that stop here", ".1%"),
                    tip("right", "accuracy of these images"),
                    tip("all", "accuracy of the exit on all images"),
                ],
            },
        },
    )


def stop_map(exits: int) -> Spec:
    """Where images stop, for points from cheap to dear; the page fills ``cells`` (rank, exit, share, number)."""
    return chart(
        280,
        {
            "data": {"name": "cells"},
            "datasets": {"cells": []},
            "mark": {"type": "rect", "color": ACCENT, "tooltip": True},
            "encoding": {
                "x": {**exit_axis(title=f"exit ({exits} is the classifier)"), "scale": {"domain": _numbered(exits)}},
                "y": {
                    "field": "rank",
                    "type": "ordinal",
                    "axis": {"title": "points from cheap to dear", "labels": False, "ticks": False},
                },
                "opacity": {
                    "field": "share",
                    "type": "quantitative",
                    "scale": {"type": "sqrt", "domain": [0, 1], "range": [0, 1]},
                    "legend": {"title": "share of images", "format": ".0%", "symbolType": "square", "columns": 5},
                },
                "tooltip": [
                    tip("number", "point", "d"),
                    tip("exit", "exit", "d"),
                    tip("share", "images that stop here", ".1%"),
                ],
            },
        },
    )


def _numbered(count: int) -> list[int]:
    return list(range(1, count + 1))


def optimism(policies: Sequence[str]) -> Spec:
    """Points lost on validation and on test; the page fills ``points`` (lost, test_lost, low, high, series, ..)."""
    axes = {
        "x": number("lost", "points lost on validation", ".1f", axis={"tickCount": 8}),
        "y": number("test_lost", "points lost on test", ".1f", axis={"tickCount": 6}),
    }
    return chart(
        300,
        {
            "datasets": {"points": [], "equal": []},
            "layer": [
                {
                    "data": {"name": "equal"},
                    "mark": {"type": "line", "strokeDash": [4, 3], "strokeWidth": 1.2},
                    "encoding": {**axes, "stroke": {"value": INK}},
                },
                {
                    "name": "points",
                    "data": {"name": "points"},
                    "params": [{"name": "brush", "select": {"type": "interval", "encodings": ["x", "y"]}}],
                    "mark": {"type": "point", "filled": True, "size": 40, "tooltip": True},
                    "encoding": {
                        **axes,
                        **series("series", policies),
                        "opacity": {"condition": {"test": "datum.shown", "value": 0.8}, "value": 0.06},
                        "tooltip": [
                            tip("number", "point", "d"),
                            tip("policy", "policy"),
                            tip("lost", "points lost on validation", ".2f"),
                            tip("test_lost", "points lost on test", ".2f"),
                        ],
                    },
                },
            ],
        },
    )
