"""ResNet of basic blocks, as segments: an exit after each convolution of each residual block.

Source: He et al., arXiv 1512.03385; layers and parameter names are torchvision's.
"""

from functools import partial

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from study.networks.registry import (
    ExitPoint,
    FeatureClassifier,
    Segmented,
    State,
    register_backbone,
    scale_channels,
)

DEPTHS = {"resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3]}
"""Blocks in each of the four stages."""

POOLED_FROM = 96
"""Images with a side of at least this many pixels pass a max-pool (3x3, stride 3) in the stem."""


class ScaledResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """Torchvision's ResNet for small images, with every channel count scaled by ``width``.

    The stem is a 3x3 convolution of stride 1, without a max-pool below ``POOLED_FROM`` pixels.
    """

    inplanes: int  # channels of the last layer that the parent class has made

    def __init__(self, layers: list[int], *, classes: int, image_size: int, channels: int, width: float) -> None:
        self._width = width  # set before the parent's constructor, which calls _make_layer
        super().__init__(BasicBlock, layers)
        stem = scale_channels(64, width)
        self.conv1 = nn.Conv2d(channels, stem, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(stem)
        self.maxpool = nn.MaxPool2d(3, stride=3) if image_size >= POOLED_FROM else nn.Identity()
        self.fc = nn.Linear(self.inplanes, classes)

    def _make_layer(
        self, block: type[BasicBlock], planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        if not hasattr(self, "layer1"):  # the first stage, whose input is the stem
            self.inplanes = scale_channels(self.inplanes, self._width)
        planes = scale_channels(planes, self._width)
        layer: nn.Sequential = super()._make_layer(block, planes, blocks, stride, dilate)
        return layer


class FirstConvolution(nn.Module):
    """First half of a residual block. Of the first block of the network, the stem is a part."""

    def __init__(self, block: BasicBlock, stem: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.layers = nn.Sequential(block.conv1, block.bn1, block.relu)

    def forward(self, state: State) -> State:
        """From ``(feature,)`` to ``(feature, skip)``; the skip is the block's input."""
        skip = self.stem(state[0])
        # The ReLU works in place on the output of the batch norm: the skip stays unchanged.
        return self.layers(skip), skip


class SecondConvolution(nn.Module):
    """Second half of a residual block: convolution, shortcut, addition, ReLU."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.layers = nn.Sequential(block.conv2, block.bn2)
        self.shortcut = nn.Identity() if block.downsample is None else block.downsample
        self.relu = block.relu

    def forward(self, state: State) -> State:
        """From ``(feature, skip)`` to ``(feature,)``."""
        feature, skip = state
        return (self.relu(self.layers(feature) + self.shortcut(skip)),)


def build_resnet(name: str, *, classes: int, image_size: int, channels: int, width: float) -> Segmented:
    """Build ``name`` (a key of ``DEPTHS``): two exits and one codebook in each block, g = 2.

    The exits of a stage share their linear layers.
    """
    model = ScaledResNet(DEPTHS[name], classes=classes, image_size=image_size, channels=channels, width=width)
    segments: list[nn.Module] = []
    exits: list[ExitPoint] = []
    stem: nn.Module = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for index, block in enumerate(getattr(model, stage)):
            segments += [FirstConvolution(block, stem), SecondConvolution(block)]
            exits += [
                ExitPoint(f"{stage}.{index}.{layer}", codebook=f"{stage}_{index}", linear=stage, grid=2)
                for layer in ("conv1", "conv2")
            ]
            stem = nn.Identity()
    classifier = FeatureClassifier(model.avgpool, nn.Flatten(), model.fc)
    return Segmented(model, tuple(segments), classifier, tuple(exits))


for _name in DEPTHS:
    register_backbone(_name)(partial(build_resnet, _name))
