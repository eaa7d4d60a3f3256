"""Backbones ``timm:NAME``, where timm is installed; and the line where it is not."""

import importlib
from types import ModuleType

import pytest
import torch

from study.errors import UserError
from study.networks.multi_exit import build_network
from study.networks.registry import native_image_size
from study.networks.settings import HeadSettings, NetworkSettings

MODELS = {
    "resnet10t": 5,
    "mobilenetv3_small_050": 5,
    "efficientnet_b0": 5,
    "convnext_atto": 4,
    "regnetx_002": 5,
    "vit_tiny_patch16_224": 12,
    "swin_tiny_patch4_window7_224": 4,
}


@pytest.mark.parametrize(("name", "exits"), MODELS.items())
@torch.no_grad()
def test_a_model_is_cut_where_its_feature_information_says(name, exits):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    settings = NetworkSettings(backbone=f"timm:{name}", head=HeadSettings(kind="linear"))
    assert native_image_size(settings.backbone) is not None
    with torch.device("meta" if "swin" in name else "cpu"):
        net = build_network(settings, classes=5, image_size=64 if "swin" not in name else 224, channels=1).eval()
        images = torch.rand(2, *net.input_shape)
        assert net.exit_count == exits
        assert net(images).shape == (2, exits + 1, 5)
        if "swin" not in name:
            assert torch.equal(net.classify(images), net.backbone(images))


def test_without_timm_the_line_says_what_to_install(monkeypatch):
    def find(name: str) -> ModuleType:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", find)
    with pytest.raises(UserError, match=r"timm:resnet18 needs timm: install .* predictive-exit\[timm\]"):
        native_image_size("timm:resnet18")


def test_an_unknown_model_is_told():
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=r"unknown backbone 'timm:resnet51'; behind timm: known are resnet5"):
        native_image_size("timm:resnet51")
