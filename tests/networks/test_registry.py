"""Adding a backbone is one function; exits, heads and logits follow."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch
from torch import nn

from study.errors import UserError
from study.networks import registry
from study.networks.multi_exit import build_network
from study.networks.registry import (
    ExitPoint,
    FeatureClassifier,
    FeatureSegment,
    Segmented,
    backbone_names,
    build_backbone,
    register_backbone,
    scale_channels,
)
from study.networks.settings import HeadSettings, NetworkSettings


@pytest.fixture(autouse=True)
def registrations_of_a_test_end_with_it(monkeypatch):
    backbone_names()  # registers the built-in backbones, which must outlast the test
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))


def tiny(*, classes: int, image_size: int, channels: int, width: float) -> Segmented:
    features = scale_channels(32, width)
    model = nn.Sequential(
        nn.Conv2d(channels, features, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(features, features, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(features, classes),
    )
    return Segmented(
        model=model,
        segments=(FeatureSegment(*model[0:2]), FeatureSegment(*model[2:4])),
        classifier=FeatureClassifier(*model[4:]),
        exits=(ExitPoint("conv1", "first", "all", grid=2), ExitPoint("conv2", "second", "all", grid=2)),
    )


@pytest.mark.parametrize("kind", ["bof", "linear", "conv", "separable"])
def test_a_new_backbone_gets_its_exits_for_free(kind):
    register_backbone("tiny")(tiny)
    assert "tiny" in backbone_names()
    settings = NetworkSettings(backbone="tiny", width=0.5, head=HeadSettings(kind=kind))
    network = build_network(settings, classes=7, image_size=12, channels=1)
    images = torch.rand(3, 1, 12, 12)
    assert network.exit_shapes == ((16, 12, 12), (16, 12, 12))
    assert network(images).shape == (3, 3, 7)
    assert torch.equal(network.classify(images), network.backbone(images))


def test_backbones_of_other_distributions_are_found_through_entry_points(monkeypatch):
    point = EntryPoint("tiny_plugin", f"{__name__}:tiny", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda **which: EntryPoints([point]).select(**which))
    assert "tiny_plugin" in backbone_names()
    assert len(build_backbone("tiny_plugin", classes=2, image_size=8, channels=1, width=1.0).exits) == 2


def test_an_unknown_backbone_is_answered_with_the_known():
    with pytest.raises(UserError, match=r"^unknown backbone 'vgg20'; known are .*resnet18, resnet34.*vgg11, vgg11_bn"):
        build_backbone("vgg20", classes=10, image_size=32, channels=3, width=1.0)


@pytest.mark.parametrize("wrong", [{"width": 0.0}, {"width": float("nan")}, {"classes": 0}, {"channels": 0}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(UserError, match="above 0"):
        build_backbone("vgg11", **{"classes": 10, "image_size": 32, "channels": 3, "width": 1.0} | wrong)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'vgg19' is registered already"):
        register_backbone("vgg19")(tiny)


def test_segments_must_cover_the_model_and_nothing_else():
    good = tiny(classes=2, image_size=8, channels=1, width=1.0)
    with pytest.raises(ValueError, match=r"all of them: model's 6\.weight"):
        Segmented(good.model, good.segments, FeatureClassifier(nn.Flatten()), good.exits)
    with pytest.raises(ValueError, match=r"segments' FeatureSegment 0\.weight"):
        stranger = FeatureSegment(nn.Linear(1, 1))
        Segmented(good.model, (*good.segments, stranger), good.classifier, (*good.exits, good.exits[1]))
    with pytest.raises(ValueError, match="1 segments for 2 exits"):
        Segmented(good.model, good.segments[:1], good.classifier, good.exits)


def test_sharing_keys_are_identifiers():
    with pytest.raises(ValueError, match=r"exit a: the sharing key 'layer1\.0' is not an identifier"):
        ExitPoint("a", codebook="layer1.0", linear="all", grid=1)
