"""The segmenter of VGG and ResNet: exits, shapes, and equality with the whole model."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from study.errors import UserError
from study.networks.multi_exit import build_network
from study.networks.registry import Segmented, build_backbone, scale_channels
from study.networks.settings import HeadSettings, NetworkSettings

VGG19_CHANNELS = [64] * 3 + [128] * 3 + [256] * 5 + [512] * 9
VGG19_SIDES_AT_32 = [32] * 2 + [16] * 3 + [8] * 5 + [4] * 5 + [2] * 5
RESNET34_CHANNELS = [64] * 6 + [128] * 8 + [256] * 12 + [512] * 6
RESNET34_SIDES = [32] * 6 + [16] * 8 + [8] * 12 + [4] * 6


def build(name: str, *, classes: int = 10, image_size: int = 32, channels: int = 3, width: float = 1.0) -> Segmented:
    return build_backbone(name, classes=classes, image_size=image_size, channels=channels, width=width)


def disturb(model: torch.nn.Module) -> None:
    """Batch-norm statistics and affine parts away from 1 and 0, so that a wrong or missing one shows."""
    torch.manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (layer.bias.data, layer.running_mean):
                tensor.uniform_(-0.2, 0.2)


@pytest.mark.parametrize(
    ("name", "exits"),
    [
        ("vgg11_bn", 12),
        ("vgg13_bn", 14),
        ("vgg16_bn", 17),
        ("vgg19", 20),
        ("vgg19_bn", 20),
        ("resnet18", 16),
        ("resnet34", 32),
    ],
)
def test_exit_counts(name, exits):
    assert len(build(name, width=0.125).exits) == exits


@pytest.mark.parametrize(
    ("name", "image_size", "channels", "sides"),
    [
        ("vgg19", 32, VGG19_CHANNELS, VGG19_SIDES_AT_32),
        ("vgg19", 96, VGG19_CHANNELS, [3 * side for side in VGG19_SIDES_AT_32]),
        ("resnet34", 32, RESNET34_CHANNELS, RESNET34_SIDES),
        ("resnet34", 96, RESNET34_CHANNELS, RESNET34_SIDES),  # its stem's max-pool brings 96 to 32
        ("resnet34", 64, RESNET34_CHANNELS, [2 * side for side in RESNET34_SIDES]),
    ],
)
def test_feature_map_at_every_exit(name, image_size, channels, sides):
    settings = NetworkSettings(backbone=name, head=HeadSettings(kind="linear"))
    network = build_network(settings, classes=10, image_size=image_size, channels=3)
    assert list(network.exit_shapes) == [(c, side, side) for c, side in zip(channels, sides, strict=True)]


def test_exit_names_and_grids_of_vgg19():
    exits = build("vgg19", width=0.125).exits
    assert [point.name for point in exits[:6]] == ["conv1_1", "conv1_2", "pool1", "conv2_1", "conv2_2", "pool2"]
    assert [number for number, point in enumerate(exits, 1) if point.name.startswith("pool")] == [3, 6, 11, 16]
    assert exits[-1].name == "conv5_4"
    assert [number for number, point in enumerate(exits, 1) if point.grid == 1] == [3, 6, 11, *range(16, 21)]


def test_exit_names_and_grids_of_resnet34():
    exits = build("resnet34", width=0.125).exits
    assert [point.name for point in exits[5:8]] == ["layer1.2.conv2", "layer2.0.conv1", "layer2.0.conv2"]
    assert {point.grid for point in exits} == {2}


@pytest.mark.parametrize("name", ["vgg19", "vgg11_bn", "resnet18", "resnet34"])
@pytest.mark.parametrize(
    ("width", "channels", "classes", "image_size"), [(0.25, 3, 100, 32), (0.5, 1, 10, 32), (0.125, 3, 10, 96)]
)
@torch.no_grad()
def test_segment_by_segment_equals_the_whole_model(name, width, channels, classes, image_size):
    backbone = build(name, classes=classes, image_size=image_size, channels=channels, width=width)
    disturb(backbone.model)
    backbone.model.eval()
    images = torch.randn(2, channels, image_size, image_size)
    whole = backbone.model(images)
    state = (images,)
    for segment in backbone.segments:
        given = [(tensor, tensor.clone()) for tensor in state]
        state = segment(state)
        assert all(torch.equal(*pair) for pair in given), "a segment changed what it was given"
    assert whole.shape == (2, classes)
    assert torch.equal(backbone.classifier(state), whole)


def test_a_shortcut_is_in_the_second_segment_of_its_block():
    backbone = build("resnet18", width=0.125)
    shortcut = backbone.model.layer2[0].downsample
    holders = [n for n, segment in enumerate(backbone.segments, 1) if shortcut in list(segment.modules())]
    assert [backbone.exits[number - 1].name for number in holders] == ["layer2.0.conv2"]


def test_vgg19_has_torchvisions_parameters():
    features = build("vgg19", classes=1000).model.features
    with torch.device("meta"):
        theirs = models.vgg19_bn(init_weights=False).features
    shapes = [{name: tensor.shape for name, tensor in part.state_dict().items()} for part in (features, theirs)]
    assert shapes[0] == shapes[1]


def test_resnet34_has_torchvisions_parameters_but_for_the_stem():
    ours = build("resnet34", classes=1000).model.state_dict()
    with torch.device("meta"):
        theirs = models.resnet34().state_dict()
    assert list(ours) == list(theirs)
    assert [name for name in ours if ours[name].shape != theirs[name].shape] == ["conv1.weight"]


def test_initial_weights_follow_torchvisions_rule():
    torch.manual_seed(0)
    for name, layer in (("vgg19", "features.49"), ("resnet34", "layer4.2.conv2"), ("resnet34", "conv1")):
        convolution = build(name).model.get_submodule(layer)
        fan_out = convolution.out_channels * 9
        assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    linear = build("vgg19", classes=100).model.classifier
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert linear.bias.abs().max() == 0


def test_flops_of_vgg19():
    backbone = build("vgg19")
    backbone.model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.model(torch.zeros(1, 3, 32, 32))
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert round(convolutions / 1e9, 3) == 0.796


@pytest.mark.parametrize(("channels", "width", "scaled"), [(64, 1.0, 64), (64, 0.5, 32), (64, 0.3, 16), (64, 0.01, 8)])
def test_channels_scale_to_multiples_of_eight(channels, width, scaled):
    assert scale_channels(channels, width) == scaled


def test_vgg_refuses_an_image_that_would_vanish():
    with pytest.raises(UserError, match=r"^vgg19 needs images of at least 32 pixels, got 28: scale or pad them$"):
        build("vgg19_bn", image_size=28)
    build("vgg11", image_size=33, width=0.125)
