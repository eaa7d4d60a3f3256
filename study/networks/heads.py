"""Exit heads: modules that turn the feature map at an exit into logits.

All heads of a network are one module, ``heads(feature, exit) -> logits``, because exits may share parts. A part is
registered once, under the key that its exits name.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.settings import Tokens
from study.errors import UserError
from study.networks.bof import Codebook
from study.networks.registry import ExitPoint
from study.networks.settings import HeadSettings

Shape: TypeAlias = tuple[int, int, int]
"""(channels, height, width) of a feature map."""


class ReadFeature:
    """How the heads of a network read their features: each as a map ``[B, C, H, W]``.

    Tokens become a map of one pixel: the class token, or the mean of the other tokens.

    Raises:
        UserError: the class token is asked for where an exit has none.
    """

    def __init__(self, exits: Sequence[ExitPoint], tokens: Tokens | None) -> None:
        self._forms, self._tokens = tuple(point.form for point in exits), tokens
        if tokens == "class" and (lacking := [e.name for e in exits if e.form != "tokens_behind_class"]):
            raise UserError(f"setting of the exit heads: tokens is class, but exit {lacking[0]} has no class token")

    def __call__(self, feature: Tensor, exit: int) -> Tensor:
        """The map ``[B, C, H, W]`` of exit ``exit`` (from 1)."""
        form = self._forms[exit - 1]
        if form == "map":
            return feature if feature.dim() == 4 else feature[:, :, None, None]
        if form == "map_channels_last":
            return feature.permute(0, 3, 1, 2)
        if form == "tokens":
            return feature.mean(dim=1)[:, :, None, None]
        chosen = feature[:, 1:].mean(dim=1) if self._tokens == "mean" else feature[:, 0]
        return chosen[:, :, None, None]


class BofHeads(nn.Module):
    """Bag-of-Features heads: a codebook, then linear layers. Exits with the same key share the part.

    A histogram over a g x g grid has g*g*K values. If g > 1, a hidden layer of K units reduces them to the K values
    that the output layer takes from every exit.

    Raises:
        ValueError: exits with maps of different channel counts name the same codebook.
    """

    def __init__(
        self,
        exits: Sequence[ExitPoint],
        *,
        shapes: Sequence[Shape],
        classes: int,
        codewords: int,
        read: ReadFeature,
    ) -> None:
        super().__init__()
        self._read = read
        self.codebooks = nn.ModuleDict()
        self.hidden = nn.ModuleDict()
        self.outputs = nn.ModuleDict()
        # A map smaller than the grid has one cell for each pixel.
        self._exits = [replace(e, grid=min(e.grid, *shape[1:])) for e, shape in zip(exits, shapes, strict=True)]
        codebook_channels: dict[str, int] = {}
        for point, (channels, _, _) in zip(self._exits, shapes, strict=True):
            if point.codebook not in self.codebooks:
                self.codebooks[point.codebook] = Codebook(channels, codewords)
            if point.grid > 1 and _hidden_key(point) not in self.hidden:
                self.hidden[_hidden_key(point)] = nn.Linear(point.grid**2 * codewords, codewords)
            if point.linear not in self.outputs:
                self.outputs[point.linear] = nn.Linear(codewords, classes)
            expected = codebook_channels.setdefault(point.codebook, channels)
            if channels != expected:
                raise ValueError(f"exit {point.name} has {channels} channels, its codebook {point.codebook} {expected}")
        # One learned scale for each exit, also of exits that share all other parts. It starts at the side of a window.
        sides = [shape[1] / point.grid for point, shape in zip(self._exits, shapes, strict=True)]
        self.window_scales = nn.Parameter(torch.tensor(sides))

    def forward(self, feature: Tensor, exit: int) -> Tensor:
        """Logits [B, C] of exit ``exit`` (from 1) for its feature."""
        point = self._exits[exit - 1]
        histogram = self.codebooks[point.codebook](self._read(feature, exit), point.grid)
        values = (self.window_scales[exit - 1] * histogram).flatten(1)
        if point.grid > 1:
            values = functional.relu(self.hidden[_hidden_key(point)](values))
        logits: Tensor = self.outputs[point.linear](values)
        return logits


def _hidden_key(point: ExitPoint) -> str:
    return f"{point.linear}_grid{point.grid}"


class SeparateHeads(nn.Module):
    """Heads that share nothing: one module for each exit, from feature map to logits."""

    def __init__(self, heads: Sequence[nn.Module], read: ReadFeature) -> None:
        super().__init__()
        self.exits = nn.ModuleList(heads)
        self._read = read

    def forward(self, feature: Tensor, exit: int) -> Tensor:
        """Logits [B, C] of exit ``exit`` (from 1) for its feature."""
        logits: Tensor = self.exits[exit - 1](self._read(feature, exit))
        return logits


class MixedPooling(nn.Module):
    """A learned mixture of max and average pooling: a max + (1 - a) average, with one weight a that starts at 1/2.

    Source: Lee et al., "Generalizing Pooling Functions in Convolutional Neural Networks", AISTATS 2016 ("mixed"
    pooling, one weight a layer), as the heads of SDN use it (Kaya et al., "Shallow-Deep Networks", ICML 2019). The
    weight is not bounded, as there.

    Args:
        height, width: of the maps ``[B, C, height, width]``.
        side: of the map that is left, where it divides height and width; else a window has ``height // side`` pixels.
    """

    def __init__(self, height: int, width: int, *, side: int) -> None:
        super().__init__()
        window = (max(height // side, 1), max(width // side, 1))
        self.max, self.average = nn.MaxPool2d(window), nn.AvgPool2d(window)
        self.share_of_max = nn.Parameter(torch.tensor(0.5))

    def forward(self, feature: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C, side, side]``."""
        average = self.average(feature)
        mixed: Tensor = average + self.share_of_max * (self.max(feature) - average)
        return mixed


def classifying_layers(settings: HeadSettings, shape: Shape, classes: int) -> list[nn.Module]:
    """Pooling, then a linear layer to the classes: the end of each head that is no Bag-of-Features head."""
    channels, height, width = shape
    side = settings.pooling_side
    if settings.pooling == "max_average":
        pooling: nn.Module = MixedPooling(height, width, side=side)
        height, width = height // max(height // side, 1), width // max(width // side, 1)
    else:
        height, width = min(side, height), min(side, width)
        pooling = nn.AdaptiveAvgPool2d((height, width) if side > 1 else 1)
    return [pooling, nn.Flatten(), nn.Linear(channels * height * width, classes)]


def conv_head(settings: HeadSettings, shape: Shape, classes: int) -> nn.Module:
    """Average pooling to at most ``conv_side`` pixels a side, ``conv_layers`` 3x3 convolutions, pooling, linear layer.

    Before the third, fifth, ... convolution, max-pooling halves the map and the channels double, as in VGG (Simonyan
    and Zisserman 2015), as long as the map has at least four pixels a side: the number of operations stays the same,
    and the receptive field grows. In a ``separable`` head each convolution is a depthwise 3x3 and a 1x1
    convolution (Chollet 2017), which cost about an eighth.
    """
    incoming, channels = shape[0], settings.conv_channels
    height, width = min(settings.conv_side, shape[1]), min(settings.conv_side, shape[2])
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d((height, width))]
    for number in range(settings.conv_layers):
        if number and number % 2 == 0 and min(height, width) >= 4:
            layers.append(nn.MaxPool2d(2))
            height, width, channels = height // 2, width // 2, 2 * channels
        if settings.kind == "separable":
            layers += [
                nn.Conv2d(incoming, incoming, kernel_size=3, padding=1, groups=incoming, bias=False),
                nn.Conv2d(incoming, channels, kernel_size=1, bias=False),
            ]
        else:
            layers.append(nn.Conv2d(incoming, channels, kernel_size=3, padding=1, bias=False))
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        incoming = channels
    return nn.Sequential(*layers, *classifying_layers(settings, (channels, height, width), classes))


def build_heads(
    settings: HeadSettings, exits: Sequence[ExitPoint], *, shapes: Sequence[Shape], classes: int
) -> nn.Module:
    """Build the heads of all ``exits``; ``shapes`` are those of the maps that the heads read.

    Raises:
        UserError: the class token is asked for where an exit has none.
    """
    read = ReadFeature(exits, settings.tokens)
    if settings.kind == "linear":
        return SeparateHeads([nn.Sequential(*classifying_layers(settings, shape, classes)) for shape in shapes], read)
    if settings.kind in ("conv", "separable"):
        return SeparateHeads([conv_head(settings, shape, classes) for shape in shapes], read)
    if settings.sharing == "none":
        own_keys = [f"exit{number}" for number in range(1, len(exits) + 1)]
        exits = [replace(e, codebook=key, linear=key) for e, key in zip(exits, own_keys, strict=True)]
    return BofHeads(exits, shapes=shapes, classes=classes, codewords=settings.codewords, read=read)
