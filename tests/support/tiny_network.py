"""A backbone of two convolutions, and images that it learns in seconds."""

from __future__ import annotations

import numpy as np
from torch import nn

from study.data.settings import DataInfo, ImageSet
from study.networks.registry import ExitPoint, FeatureClassifier, FeatureSegment, Segmented, register_backbone

TINY = "tiny_of_tests"
TINY_INFO = DataInfo(
    name="digits",
    image_size=8,
    channels=1,
    class_names=("a", "b", "c"),
    mean=(0.5,),
    std=(0.5,),
    flip=False,
    crop_padding=0,
    digest="d",
    settings={},
)
"""Of the images of :func:`image_set`, which no augmentation changes."""


@register_backbone(TINY)
def tiny(*, classes: int, image_size: int, channels: int, width: float) -> Segmented:
    """Two exits, for images of any size."""

    def block(inputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)]
    model = nn.Sequential(*block(channels), *block(8), *head)
    segments = (FeatureSegment(*model[:3]), FeatureSegment(*model[3:6]))
    exits = (ExitPoint("one", "first", "all", grid=2), ExitPoint("two", "second", "all", grid=1))
    return Segmented(model=model, segments=segments, classifier=FeatureClassifier(*model[6:]), exits=exits)


def image_set(count: int, seed: int, *, noise: int = 120, step: int = 60) -> ImageSet:
    """Three classes of 8 x 8 grey noise, each ``step`` brighter than the one before."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, noise, (count, 1, 8, 8)) + step * labels[:, None, None, None]
    return ImageSet(images=images.astype(np.uint8), labels=labels.astype(np.int64))
