"""Backbones, exit heads, and the network that they make together."""

from study.networks import resnet, vgg  # each registers its backbones
from study.networks.heads import ExitHeads, HeadSettings, build_heads
from study.networks.multi_exit import (
    MultiExitNetwork,
    NetworkSettings,
    build_network,
    load_backbone_weights,
)
from study.networks.registry import (
    ExitPoint,
    FeatureClassifier,
    FeatureSegment,
    Segmented,
    State,
    backbone_names,
    build_backbone,
    register_backbone,
    scale_channels,
)

__all__ = [
    "ExitHeads",
    "ExitPoint",
    "FeatureClassifier",
    "FeatureSegment",
    "HeadSettings",
    "MultiExitNetwork",
    "NetworkSettings",
    "Segmented",
    "State",
    "backbone_names",
    "build_backbone",
    "build_heads",
    "build_network",
    "load_backbone_weights",
    "register_backbone",
    "resnet",
    "scale_channels",
    "vgg",
]
