"""Backbones ``torchvision:NAME``: torchvision's classifiers as they are, with an exit behind each block.

Stem, classifier and names of the weights are torchvision's. The backbones of :mod:`study.networks.vgg` and
:mod:`study.networks.resnet` are variants for small images.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.models import (
    convnext,
    densenet,
    efficientnet,
    mnasnet,
    mobilenetv2,
    mobilenetv3,
    regnet,
    resnet,
    shufflenetv2,
    squeezenet,
    swin_transformer,
    vision_transformer,
)
from torchvision.models.vgg import VGG

from search_spaces.words import short
from study.errors import UserError
from study.networks.registry import Segmented
from study.networks.segmenter import segment_module

_BLOCKS = (
    convnext.CNBlock,
    densenet._DenseBlock,
    densenet._Transition,
    efficientnet.FusedMBConv,
    efficientnet.MBConv,
    mnasnet._InvertedResidual,
    mobilenetv2.InvertedResidual,
    mobilenetv3.InvertedResidual,
    regnet.ResBottleneckBlock,
    resnet.BasicBlock,
    resnet.Bottleneck,
    shufflenetv2.InvertedResidual,
    squeezenet.Fire,
    swin_transformer.SwinTransformerBlock,
    vision_transformer.EncoderBlock,
)
_LEFT_OUT = ("googlenet", "inception", "maxvit")
"""Models with classifiers beside their row of blocks, and one whose windows fit a single size."""


@cache
def torchvision_names() -> tuple[str, ...]:
    """Torchvision's names of the models that can be a backbone."""
    return tuple(name for name in models.list_models(module=models) if not name.startswith(_LEFT_OUT))


@cache
def native_size(name: str, model: str) -> int:
    """Pixels a side of the images that the published weights of ``torchvision:NAME`` take; refused as when built."""
    _check_name(name, model)
    weights = models.get_model_weights(model).DEFAULT
    return int(weights.transforms.keywords["crop_size"])


def build_torchvision(
    name: str, model: str, *, classes: int, image_size: int, channels: int, exits_at: Sequence[str] | None
) -> Segmented:
    """Build ``torchvision:NAME`` with exits behind its blocks, or at the modules that are named.

    Raises:
        UserError: the model is unknown or left out, or cannot take such images.
    """
    _check_name(name, model)
    if channels != 3:
        raise UserError(f"backbone {name} takes colour images: set channels to 3 (grey is repeated), not {channels}")
    options = {"num_classes": classes}
    if model.startswith("vit_"):
        options["image_size"] = image_size  # the position of each patch has a weight
    try:
        with _NumbersOnTheHost() if model.startswith("regnet") else nullcontext():
            network: nn.Module = models.get_model(model, weights=None, **options)
    except (AssertionError, ValueError) as error:
        raise UserError(f"backbone {name} cannot take images of {image_size} pixels: {short(error, 120)}") from None
    swin = isinstance(network, swin_transformer.SwinTransformer)
    return segment_module(
        network,
        list(exits_at or default_exits(network)),
        image=(channels, image_size, image_size),
        name=name,
        layout="last" if swin else "first",
        class_token=isinstance(network, vision_transformer.VisionTransformer),
    )


def _check_name(name: str, model: str) -> None:
    if model not in torchvision_names():
        near = get_close_matches(model, torchvision_names(), n=5, cutoff=0.3) or torchvision_names()[:5]
        raise UserError(f"unknown backbone {name!r}; behind torchvision: known are {', '.join(near)} and others")


class _NumbersOnTheHost(TorchFunctionMode):
    """On the device ``meta``, RegNet still needs the numbers from which it computes its widths."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        here = {"device": "cpu"} if function in (torch.arange, torch.tensor) else {}
        return function(*args, **{**(kwargs or {}), **here})


def default_exits(network: nn.Module) -> list[str]:
    """The places behind the blocks; of VGG and AlexNet, behind each ReLU and each max-pool but the last."""
    if isinstance(network, VGG | models.AlexNet):
        features = list(network.features.named_children())
        last_pool = max(number for number, (_, layer) in enumerate(features) if isinstance(layer, nn.MaxPool2d))
        return [
            f"features.{name}"
            for number, (name, layer) in enumerate(features)
            if isinstance(layer, nn.ReLU) or (isinstance(layer, nn.MaxPool2d) and number != last_pool)
        ]
    return [path for path, module in network.named_modules() if isinstance(module, _BLOCKS)]
