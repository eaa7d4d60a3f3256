"""Backbones ``torchvision:NAME``: the models as torchvision has them, with exits behind their blocks."""

import pytest
import torch
from torch import nn
from torchvision import models

from study.costs.flops import count_work
from study.errors import UserError
from study.networks.multi_exit import build_network
from study.networks.registry import build_backbone, native_image_size, usual_image_size
from study.networks.settings import HeadSettings, NetworkSettings
from study.networks.torchvision_models import torchvision_names

EXITS = {
    "alexnet": 7,
    "convnext_tiny": 18,
    "densenet121": 7,
    "efficientnet_b0": 16,
    "efficientnet_v2_s": 40,
    "mnasnet1_0": 16,
    "mobilenet_v2": 17,
    "mobilenet_v3_large": 15,
    "mobilenet_v3_small": 11,
    "regnet_x_400mf": 22,
    "regnet_y_400mf": 16,
    "resnet18": 8,
    "resnet50": 16,
    "resnext50_32x4d": 16,
    "shufflenet_v2_x1_0": 16,
    "squeezenet1_1": 8,
    "swin_t": 12,
    "swin_v2_t": 12,
    "vgg19_bn": 20,
    "vit_b_16": 12,
    "wide_resnet50_2": 16,
}


def network(name: str, size: int | None = None, **settings):
    asked = NetworkSettings(backbone=f"torchvision:{name}", head=HeadSettings(kind="linear"), **settings)
    return build_network(asked, classes=1000, image_size=size or native_image_size(asked.backbone), channels=3)


SAME_CODE = ("mobilenet_v3_large", "regnet_x_400mf", "resnext50_32x4d", "wide_resnet50_2")
"""Models of a class of torchvision's that another model here has too."""


@pytest.mark.parametrize(
    ("name", "exits"),
    [pytest.param(name, exits, marks=pytest.mark.slow if name in SAME_CODE else ()) for name, exits in EXITS.items()],
)
def test_exits_flops_and_names_are_those_of_torchvision(name, exits):
    with torch.device("meta"):
        net = network(name)
        # RegNet computes its widths from numbers, and the device has none.
        names = None if name.startswith("regnet") else models.get_model(name).state_dict().keys()
    published = models.get_model_weights(name).DEFAULT.meta["_ops"]  # 10^9 multiply-accumulates
    assert count_work(net).segment_flops.sum() / 2e9 == pytest.approx(published, rel=0.01)
    assert net.exit_count == exits
    assert names is None or net.backbone.state_dict().keys() == names


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "regnet_y_400mf"])
@torch.no_grad()
def test_segments_give_the_models_answer(name):
    torch.manual_seed(0)
    net = network(name, 64).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(net.classify(images), net.backbone(images))


def test_the_small_variants_keep_their_names():
    small, original = (
        build_backbone(name, classes=10, image_size=32, channels=3, width=1.0)
        for name in ("resnet18", "torchvision:resnet18")
    )
    assert (len(small.exits), len(original.exits)) == (16, 8)
    assert small.model.conv1.weight.shape[-1] == 3
    assert original.model.conv1.weight.shape[-1] == 7


def test_exits_stand_where_they_are_asked_for():
    net = network("mobilenet_v3_small", 32, exits_at=("features.0", "features.5.block.1", "features.11"))
    assert [point.name for point in net.exits] == ["features.0", "features.5.block.1", "features.11"]
    kept = NetworkSettings(backbone="vgg11", width=0.125, exits_at=("pool1", "conv4_2"))
    few = build_network(kept, classes=10, image_size=32, channels=1).eval()
    every = build_network(NetworkSettings(backbone="vgg11", width=0.125), classes=10, image_size=32, channels=1).eval()
    every.backbone.load_state_dict(few.backbone.state_dict())
    images = torch.rand(2, 1, 32, 32)
    assert few.exit_shapes == (every.exit_shapes[1], every.exit_shapes[8])
    assert torch.equal(few.classify(images), every.classify(images))
    assert count_work(few).segment_flops.sum() == count_work(every).segment_flops.sum()


def test_statistics_of_batch_normalisation_follow_a_short_training():
    """MobileNetV3 has a momentum of 0.01: after 60 steps, its own statistics would be half those of the start."""
    own = [layer.momentum for layer in models.mobilenet_v3_small().modules() if isinstance(layer, nn.BatchNorm2d)]
    here = network("mobilenet_v3_small", 32).backbone.modules()
    assert set(own) == {0.01} and {layer.momentum for layer in here if isinstance(layer, nn.BatchNorm2d)} == {0.1}


def test_images_have_the_size_of_the_model_unless_told_otherwise():
    assert native_image_size("torchvision:efficientnet_b1") == 240
    assert native_image_size("vgg19") is None
    assert usual_image_size(["torchvision:resnet50", "torchvision:vit_b_16"]) == 224
    assert usual_image_size(["vgg19", "resnet34"]) is None
    with pytest.raises(UserError, match=r"sizes \(torchvision:resnet50 224, vgg19 any\): set data.image_size"):
        usual_image_size(["torchvision:resnet50", "vgg19"])


@pytest.mark.parametrize(
    ("name", "asked", "told"),
    [
        ("resnet51", {}, "behind torchvision: known are resnet50"),
        ("inception_v3", {}, "unknown backbone"),
        ("resnet50", {"width": 0.5}, "has one width"),
        ("resnet50", {"channels": 1}, "takes colour images: set channels to 3"),
        ("vit_b_16", {"image_size": 50}, "cannot take images of 50 pixels: Input shape indivisible by patch size"),
        ("vgg11", {"image_size": 16}, "cannot run on images of 3 x 16 x 16"),
        ("resnet18", {"exits_at": ["layer1.9"]}, "has no module 'layer1.9': known are layer1.0, layer1.1"),
    ],
)
def test_what_a_model_cannot_do_is_told(name, asked, told):
    sizes = {"classes": 4, "image_size": 32, "channels": 3, "width": 1.0}
    with pytest.raises(UserError) as error, torch.device("meta"):
        build_backbone(f"torchvision:{name}", **{**sizes, **asked})
    assert told in str(error.value) and "\n" not in str(error.value)


def test_all_names_are_torchvisions():
    assert set(torchvision_names()) < set(models.list_models())
    assert len(torchvision_names()) > 70
