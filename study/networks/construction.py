"""Building the network for a data set: with weights drawn from a seed, or with shapes alone."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import nn

from study.data.settings import DataInfo, DataSettings
from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.own_code import digest_of, is_own
from study.networks.settings import NetworkSettings

MOST_PARAMETERS = 10**10
"""Largest network: weights, gradients and Adam's state take 160 GB, more than the memory of one device."""


def new_network(settings: NetworkSettings, info: DataInfo, seed: int) -> MultiExitNetwork:
    """A network for a data set, with weights from a seed; the random numbers of the process stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(
            settings, classes=len(info.class_names), image_size=info.image_size, channels=info.channels
        )
    if settings.weight_init == "dirac":
        start_from_dirac(network.backbone)
    return network


@torch.no_grad()
def start_from_dirac(backbone: nn.Module) -> None:
    """Let the first outputs of each convolution be its inputs: output c < C_in has a kernel with one 1 at its centre.

    Further outputs keep their random weights. Convolutions with fewer outputs than inputs, and those with groups, stay
    as they are. Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498 (partial identity
    initialisation); Zagoruyko and Komodakis, "DiracNets", arXiv 1706.00388.
    """
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.out_channels >= layer.in_channels:
            nn.init.dirac_(layer.weight[: layer.in_channels])


def check_network(settings: NetworkSettings, data: DataSettings) -> int:
    """The number of exits of a network for data of resolved settings. No image is read.

    Raises:
        UserError: the backbone is unknown or refuses the image size, or the network has more than ``MOST_PARAMETERS``.
    """
    assert data.image_size is not None and data.channels is not None, "the data settings are resolved"
    return _exit_count(with_code(settings), data.image_size, data.channels)


def with_code(settings: NetworkSettings) -> NetworkSettings:
    """Settings that name the content of the network: with the digest of the file of the user's own backbone.

    Raises:
        UserError: the file is missing.
    """
    if settings.code is not None or not is_own(settings.backbone):
        return settings
    return replace(settings, code=digest_of(settings.backbone))


@lru_cache(maxsize=4096)
def _exit_count(settings: NetworkSettings, image_size: int, channels: int) -> int:
    return shaped_network(settings, classes=2, image_size=image_size, channels=channels).exit_count


def described_network(settings: NetworkSettings, data: DataSettings) -> MultiExitNetwork:
    """A network of two classes for data of resolved settings, in shapes alone. Refused as by :func:`check_network`."""
    assert data.image_size is not None and data.channels is not None, "the data settings are resolved"
    return shaped_network(settings, classes=2, image_size=data.image_size, channels=data.channels)


def meta_network(settings: NetworkSettings, info: DataInfo) -> MultiExitNetwork:
    """A network for a data set on torch's meta device: shapes without numbers. Refused as by :func:`check_network`."""
    return shaped_network(settings, classes=len(info.class_names), image_size=info.image_size, channels=info.channels)


def shaped_network(settings: NetworkSettings, *, classes: int, image_size: int, channels: int) -> MultiExitNetwork:
    """A network on torch's meta device. Refused as by :func:`check_network`."""
    with torch.device("meta"):
        network = build_network(settings, classes=classes, image_size=image_size, channels=channels)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if parameters > MOST_PARAMETERS:
        raise UserError(
            f"{settings.backbone} of width {settings.width:g} with {settings.head.kind} heads has {parameters:.2g} "
            f"parameters, more than {MOST_PARAMETERS:.2g}: lower the width, or codewords and channels of the heads"
        )
    return network
