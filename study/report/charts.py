"""The charts of networks, training and search; one function a chart."""

from __future__ import annotations

from collections.abc import Sequence

from study.report.blocks import Spec
from study.report.chart_style import ACCENT, COLORS, PAPER, WHOLE, Row, chart, exit_axis, number, series, tip


def exit_accuracy(rows: Sequence[Row]) -> Spec:
    """Accuracy of each exit; a line is a network at a precision."""
    return _lines(rows, "exit", "exit", "accuracy_all", "accuracy on validation images", "network")


def ranking(rows: Sequence[Row]) -> Spec:
    """AUROC of each exit of a network; a line is a confidence."""
    return _lines(rows, "exit", "exit", "auroc", "AUROC", "criterion")


def _lines(rows: Sequence[Row], x: str, x_title: str, y: str, y_title: str, line: str) -> Spec:
    """Lines with marks of their own shape, over whole numbers."""
    names = list(dict.fromkeys(str(row[line]) for row in rows))
    return chart(
        280,
        {
            "data": {"values": list(rows)},
            "encoding": {
                "x": number(x, x_title, "d", axis={"tickMinStep": 1, "grid": False}, scale=WHOLE),
                "y": number(y, y_title, ".2~%"),
                "color": series(line, names)["color"],
                "tooltip": [tip(line, "series"), tip(x, x_title, "d"), tip(y, y_title, ".2%")],
            },
            "layer": [
                {
                    "mark": {"type": "line", "strokeWidth": 1.8},
                    "encoding": {"strokeDash": series(line, names, dashes=True)["strokeDash"]},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 50},
                    "encoding": {"shape": series(line, names)["shape"]},
                },
            ],
        },
    )


def confusion(rows: Sequence[Row], names: Sequence[str]) -> Spec:
    """Images by predicted and true number of exits until they stop."""
    axis = {"labelAngle": 0, "grid": False, "domain": False, "ticks": False}
    sides = {
        "x": {"field": "true", "type": "ordinal", "sort": list(names), "axis": {**axis, "title": "true number"}},
        "y": {"field": "predicted", "type": "ordinal", "sort": list(names), "axis": {**axis, "title": "predicted"}},
    }
    tips = [tip("predicted", "predicted"), tip("true", "true"), tip("images", "images", ",d"),
            tip("share", "share", ".1%")]  # fmt: skip
    return chart(
        300,
        {
            "data": {"values": list(rows)},
            "encoding": {**sides, "tooltip": tips},
            "layer": [
                {
                    "mark": {"type": "rect", "color": ACCENT, "stroke": PAPER},
                    "encoding": {
                        "opacity": {
                            "field": "share",
                            "type": "quantitative",
                            "scale": {"type": "sqrt", "range": [0.04, 0.85]},
                            "legend": None,
                        }
                    },
                },
                {
                    "transform": [{"filter": "datum.images > 0"}],
                    "mark": {"type": "text", "fontSize": 11},
                    "encoding": {"text": {"field": "images", "type": "quantitative"}},
                },
            ],
        },
    )


def part_costs(rows: Sequence[Row], title: str) -> Spec:
    """The cost of each segment and of the head behind it."""
    names = ["segment", "head"]
    last = max(int(row["number"]) for row in rows)
    return chart(
        240,
        {
            "data": {"values": list(rows)},
            "mark": {"type": "bar", "cornerRadiusEnd": 1},
            "encoding": {
                "x": exit_axis("number", f"segment, and the exit behind it ({last} is the classifier)"),
                "xOffset": {"field": "part", "sort": names},
                "y": number("value", title, scale={"zero": True}),
                "fillOpacity": {"condition": {"test": "datum.part === 'head'", "value": 0.35}, "value": 1},
                "stroke": {
                    "field": "part",
                    "type": "nominal",
                    "scale": {"domain": names, "range": [COLORS[0], COLORS[1]]},
                },
                "color": {
                    "field": "part",
                    "type": "nominal",
                    "scale": {"domain": names, "range": [COLORS[0], COLORS[1]]},
                },
                "tooltip": [tip("part", "part"), tip("number", "number", "d"), tip("value", title, ".4~g")],
            },
        },
    )


def curves(rows: Sequence[Row]) -> Spec:
    """Validation score over the epochs; a line is a trial, and the nearest one is marked."""
    return chart(
        260,
        {
            "data": {"values": list(rows)},
            "encoding": {
                "x": number("epoch", "epoch", "d", axis={"tickMinStep": 1, "grid": False}, scale=WHOLE),
                "y": number("score", "validation score", ".2~%"),
                "detail": {"field": "trial_id"},
            },
            "layer": [
                {"mark": {"type": "line", "strokeWidth": 1.4, "color": ACCENT, "opacity": 0.55}},
                {
                    "params": [
                        {
                            "name": "near",
                            "select": {
                                "type": "point",
                                "fields": ["trial_id"],
                                "on": "pointerover",
                                "nearest": True,
                                "clear": "pointerout",
                            },
                        }
                    ],
                    "mark": {"type": "point", "filled": True, "size": 30, "color": ACCENT},
                    "encoding": {
                        "opacity": {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0.45},
                        "size": {"condition": {"param": "near", "empty": False, "value": 90}, "value": 24},
                        "tooltip": [
                            tip("trial_id", "trial"),
                            tip("epoch", "epoch", "d"),
                            tip("score", "validation score", ".2%"),
                            tip("train_loss", "training loss", ".4~g"),
                        ],
                    },
                },
            ],
        },
    )


def parallel(rows: Sequence[Row], ends: Sequence[Row]) -> Spec:
    """Parallel coordinates: one line a trial, one axis a setting, the score last. ``ends`` name the ends of axes."""
    names = list(dict.fromkeys(str(row["axis"]) for row in rows))
    x = {
        "field": "axis",
        "type": "nominal",
        "sort": names,
        "axis": {"title": None, "labelAngle": 0, "domain": False, "ticks": False, "grid": True, "labelLimit": 110},
        "scale": {"type": "point", "padding": 0.4},
    }
    y = {"field": "place", "type": "quantitative", "axis": None, "scale": {"domain": [-0.12, 1.12], "nice": False}}
    tips = [tip("trial", "trial"), tip("axis", "setting"), tip("value", "value"), tip("score", "score", ".2%")]
    weight = {"field": "score", "type": "quantitative", "scale": {"range": [0.18, 0.95], "zero": False}, "legend": None}
    near = {"condition": {"param": "near", "empty": False, "value": 3.2}, "value": 1.4}
    return chart(
        280,
        {
            "layer": [
                {
                    "data": {"values": list(rows)},
                    "mark": {"type": "line", "color": ACCENT},
                    "encoding": {"x": x, "y": y, "detail": {"field": "trial"}, "opacity": weight, "strokeWidth": near},
                },
                {
                    "data": {"values": list(rows)},
                    "params": [
                        {
                            "name": "near",
                            "select": {
                                "type": "point",
                                "fields": ["trial"],
                                "on": "pointerover",
                                "nearest": True,
                                "clear": "pointerout",
                            },
                        }
                    ],
                    "mark": {"type": "point", "filled": True, "size": 36, "color": ACCENT},
                    "encoding": {"x": x, "y": y, "opacity": weight, "tooltip": tips},
                },
                {
                    "data": {"values": list(ends)},
                    "mark": {"type": "text", "fontSize": 11, "dy": {"expr": "datum.place ? -10 : 12"}},
                    "encoding": {"x": x, "y": y, "text": {"field": "text"}},
                },
            ],
        },
    )


def importances(rows: Sequence[Row]) -> Spec:
    """The importance of each parameter for each objective."""
    names = list(dict.fromkeys(str(row["objective"]) for row in rows))
    best = sorted(rows, key=lambda row: -row["importance"])
    parameters = list(dict.fromkeys(str(row["parameter"]) for row in best))
    return chart(
        max(90, 18 * len(parameters) * len(names) + 30),
        {
            "data": {"values": list(rows)},
            "encoding": {
                "y": {"field": "parameter", "type": "nominal", "sort": parameters, "axis": {"title": None}},
                "yOffset": {"field": "objective", "sort": names},
                "x": number("importance", "importance", ".0%", scale={"zero": True}, axis={"tickCount": 6}),
                "tooltip": [
                    tip("parameter", "parameter"),
                    tip("objective", "objective"),
                    tip("importance", "importance", ".1%"),
                ],
            },
            "layer": [
                {
                    "mark": {"type": "bar", "cornerRadiusEnd": 2},
                    "encoding": {
                        "color": {
                            "field": "objective",
                            "type": "nominal",
                            "scale": {"domain": names, "range": list(COLORS)},
                        }
                    },
                },
                {
                    "mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 11},
                    "encoding": {"text": {"field": "objective"}},
                },
            ],
        },
    )


def progress(rows: Sequence[Row], title: str) -> Spec:
    """The hypervolume over the trials; a line is a search."""
    return chart(
        220,
        {
            "data": {"values": list(rows)},
            "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2, "color": ACCENT, "point": True},
            "encoding": {
                "x": number("trial", "trials", "d", axis={"grid": False}),
                "y": number("value", title),
                "detail": {"field": "search"},
                "tooltip": [tip("trial", "trials", "d"), tip("value", title, ".4~g")],
            },
        },
    )
