"""VGG with batch normalisation, as segments: an exit after each convolution and each max-pool but the last.

Source: Simonyan and Zisserman, arXiv 1409.1556; layers and parameter names are torchvision's.
"""

from functools import partial

import torch
from torch import nn
from torchvision.models.vgg import VGG, cfgs, make_layers

from study.errors import UserError
from study.networks.registry import (
    ExitPoint,
    FeatureClassifier,
    FeatureSegment,
    Segmented,
    register_backbone,
    scale_channels,
)

LAYOUTS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
"""Torchvision's letter for each depth."""


def build_vgg(name: str, *, classes: int, image_size: int, channels: int, width: float) -> Segmented:
    """Build ``name`` (a key of ``LAYOUTS``) with a single linear layer after global average pooling.

    Each max-pool halves the feature map. Exits right behind a max-pool and exits of the last stage average their
    codewords over the whole map (g = 1), all other exits over quarters of the map (g = 2).

    Raises:
        UserError: the image is smaller than the max-pools need.
    """
    layout = [item if item == "M" else scale_channels(int(item), width) for item in cfgs[LAYOUTS[name]]]
    smallest = 2 ** layout.count("M")
    if image_size < smallest:
        raise UserError(f"{name} needs images of at least {smallest} pixels, got {image_size}: scale or pad them")
    model = _model(layout, classes, channels)
    *layers, last_pool = model.features
    segments, exits = _segments(layers, stages=layout.count("M"))
    classifier = FeatureClassifier(last_pool, model.avgpool, nn.Flatten(), model.classifier)
    return Segmented(model, tuple(segments), classifier, tuple(exits))


def _model(layout: list[int | str], classes: int, channels: int) -> VGG:
    # On the meta device: torchvision's constructor allocates a classifier of 100 M parameters for images of 224 pixels,
    # which is replaced below.
    with torch.device("meta"):
        model = VGG(nn.Identity(), init_weights=False)
    model.features = make_layers(layout, batch_norm=True)
    if channels != 3:
        model.features[0] = nn.Conv2d(channels, model.features[0].out_channels, kernel_size=3, padding=1)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    last_channels = [item for item in layout if item != "M"][-1]
    model.classifier = nn.Linear(int(last_channels), classes)
    # The rule of torchvision's constructor; batch norm starts at 1 and 0.
    for layer in model.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # a convolution of VGG has a bias
    nn.init.normal_(model.classifier.weight, 0, 0.01)
    nn.init.zeros_(model.classifier.bias)
    return model


def _segments(layers: list[nn.Module], *, stages: int) -> tuple[list[nn.Module], list[ExitPoint]]:
    """Cut conv, bn, relu, ..., pool, conv, ... after each ReLU and each max-pool."""
    segments: list[nn.Module] = []
    exits: list[ExitPoint] = []
    pending: list[nn.Module] = []
    stage, convolution, channels = 1, 0, 0
    for layer in layers:
        pending.append(layer)
        if isinstance(layer, nn.Conv2d):
            convolution, channels = convolution + 1, layer.out_channels
            name, grid = f"conv{stage}_{convolution}", 1 if stage == stages else 2
        elif isinstance(layer, nn.MaxPool2d):
            name, grid = f"pool{stage}", 1
            stage, convolution = stage + 1, 0
        if isinstance(layer, nn.ReLU | nn.MaxPool2d):
            segments.append(FeatureSegment(*pending))
            exits.append(ExitPoint(name, codebook=f"channels{channels}", linear="network", grid=grid))
            pending = []
    return segments, exits


for _name in LAYOUTS:
    register_backbone(_name)(partial(build_vgg, _name))
    register_backbone(f"{_name}_bn")(partial(build_vgg, _name))  # torchvision's name for the same network
