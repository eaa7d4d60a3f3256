"""How the page writes numbers and explains words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

COSTS: Mapping[str, tuple[str, str]] = {
    "flops": ("FLOPs", "flops"),
    "energy": ("Energy", "energy_joules"),
    "latency": ("Mean latency", "latency_mean_seconds"),
}
"""Cost -> its name on the page, and its column in the tables."""
SETTINGS: Mapping[str, str] = {
    "beta": "beta",
    "start_layer": "first exit tried",
    "exits": "exits",
    "max_jump": "longest jump",
    "overshoot": "beyond the last exit",
    "price": "price",
    "statistic": "thresholds",
    "dvfs": "frequency rule",
}
"""Columns of settings -> their names on the page."""
_SCALES: Mapping[str, tuple[tuple[float, str], ...]] = {
    "flops": ((1e9, "GFLOPs"), (1e6, "MFLOPs"), (1e3, "kFLOPs"), (1.0, "FLOPs")),
    "energy": ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ")),
    "latency": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
}

CRITERIA: Mapping[str, str] = {
    "logit": "largest absolute logit, divided by the exit's threshold \u03b8,",
    "max_softmax": "largest probability",
    "entropy": "certainty (1 \u2212 entropy / ln C)",
    "margin": "margin of probabilities (first \u2212 second class)",
    "log_margin": "log margin (\u2212ln(1 \u2212 margin))",
    "patience": "number of equal answers in a row",
    "oracle": "oracle (whether the answer is right)",
}
"""Confidence -> what it is."""
CONSTRAINTS: Mapping[str, str] = {
    "accuracy_drop": "lost accuracy",
    "latency_mean": "mean latency",
    "latency_p50": "median latency",
    "latency_p99": "p99 latency",
    "energy": "energy",
    "memory": "memory",
}
"""Constraint of a study -> what it limits."""

GLOSSARY: Mapping[str, str] = {
    "AUROC": "Area under the ROC curve: the chance that an image that should stop at this exit has a higher confidence "
    "there than another image. 50 % is guessing, 100 % is perfect.",
    "FLOPs": "Arithmetic operations per image: 2 x multiply-accumulates, counted, the mean over the images.",
    "Energy": "Joules per image, the mean over the images. The source says whether they were measured or modelled.",
    "p99 latency": "99 of 100 images have their answer within this time.",
    "memory": "Bytes of weights, and of the largest feature maps that are alive at once.",
    "Mean latency": "Seconds from an image to its answer, the mean over the images.",
    "exit": "A small classifier inside the network. An image that an exit is sure of stops there.",
    "classic network": "The network without exits: every image runs through all layers.",
    "plain cut": "The network cut at one exit: every image stops there. The simplest way to save.",
    "smaller network": "A network of this study with fewer channels or layers, without exits.",
    "validation": "Images that chose the settings. Accuracies on them are a little too good.",
    "test": "Images that chose nothing. The study opens them once, at its end.",
    "95 % interval": "Where the accuracy on new images of the same kind lies, with 95 % confidence.",
    "points lost": "Accuracy of the classic network minus accuracy of the setting, in percentage points.",
    "certified": "A statistical test on images that no choice has seen: on new images of the same kind the setting "
    "loses at most so much accuracy, with the stated confidence.",
    "int8": "Weights and activations in 8 bits instead of 32.",
    "fp32": "Weights and activations in 32-bit floating point.",
    "hypervolume": "The area (or volume) between the front and a fixed bad point: one number for how good a front is.",
    "front": "The settings that no other setting beats in accuracy and costs at once (Pareto front).",
    "importance": "How much of the change of a result a parameter explains, as a share.",
}
POLICIES: Mapping[str, str] = {
    "classic": "no exits",
    "static": "every image stops at one exit: a plain cut",
    "hierarchical": "tries every exit from the start layer on",
    "placed": "tries some chosen exits",
    "predictive": "predicts the exit at which an image will stop, and skips the exits before it",
    "head_thresholds": "one threshold for each exit, fitted to calibration images",
    "optimal_stopping": "weighs at each exit what going on is worth; fitted to calibration images",
}
"""Policy -> what it does."""


@dataclass(frozen=True)
class Unit:
    """A unit that makes the costs of a study readable: a cost divided by ``size`` is in ``name``."""

    size: float
    name: str

    def text(self, value: float | None) -> str:
        """A cost with its unit."""
        return "" if value is None or math.isnan(value) else f"{value / self.size:.4g} {self.name}"


def unit_of(cost: str, value: float) -> Unit:
    """The unit in which a cost, such as that of the classic network, has one to four digits before the point."""
    scales = _SCALES[cost]
    return Unit(*next((one for one in scales if value >= one[0]), scales[-1]))


def number_text(value: object, kind: str, unit: str = "") -> str:
    """A value of a table as text; nothing for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if kind == "text" or not isinstance(value, int | float):
        return str(value)
    text = {
        "count": f"{value:,.0f}",
        "accuracy": f"{value * 100:.2f} %",
        "share": f"{value * 100:.1f} %",
        "points": f"{value * 100:+.2f}",
        "number": f"{value:.4g}",
    }[kind]
    text = text.replace(",", "\u202f").replace("-", "\u2212")
    return f"{text} {unit}" if unit else text


def share_text(value: float) -> str:
    """A share as per cent."""
    return f"{value * 100:.1f} %"


def four_digits(value: float) -> str:
    """A number with four digits."""
    return number_text(value, "number")


def interval_text(low: float, high: float) -> str:
    """The ends of an interval of shares."""
    return f"{low * 100:.2f} to {high * 100:.2f} %"
