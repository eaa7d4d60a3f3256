"""A backbone of a user's own, in a file beside a study file."""

from __future__ import annotations

from pathlib import Path

OWN_MODULE = "mine"
SOURCE = """
from torch import nn


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def bare(*, classes, image_size, channels, width):
    size = max(8, int(16 * width))
    tail = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(size, classes))
    return nn.Sequential(block(channels, size), block(size, size), block(size, size), *tail)


def build(**sizes):
    return bare(**sizes), ["0", "1", "2"]


def segments(*, classes, image_size, channels, width):
    from study.networks.registry import ExitPoint, FeatureClassifier, FeatureSegment, Segmented

    model = bare(classes=classes, image_size=image_size, channels=channels, width=width)
    exits = tuple(ExitPoint(f"block{number}", "all", "all", grid=2) for number in (2, 3))
    parts = (FeatureSegment(*model[:2]), FeatureSegment(model[2]))
    return Segmented(model, parts, FeatureClassifier(*model[3:]), exits)


def fails(**sizes):
    raise KeyError("no such layer")


def number(**sizes):
    return 7


def wrong(**sizes):
    model = bare(**sizes)
    forward = model.forward
    model.forward = lambda images: 2 * forward(images)
    return model, ["0"]


a_number = 7
"""


def write_own_backbone(folder: Path, more: str = "") -> Path:
    """Write the file of the backbone into a folder."""
    path = folder / f"{OWN_MODULE}.py"
    path.write_text(SOURCE + more)
    return path
