"""Models of libraries as exported models, and the line where a network cannot be one."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.shufflenetv2 import ShuffleNetV2
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from torchvision.models.vision_transformer import VisionTransformer

from study.deploy.rule import Rule
from study.deploy.torch_parts import Part
from study.errors import UserError
from study.export import check
from study.export.check import export_lines
from study.export.onnx_graphs import onnx_files
from study.export.parts import DescribedParts, describe_parts
from study.export.rule import rule_of
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.quantization import prepare
from study.networks.segmenter import segment_module
from study.networks.settings import HeadSettings, NetworkSettings
from study.policies.policies import Hierarchical


def _convnext() -> tuple[nn.Module, list[str]]:
    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    return ConvNeXt(blocks, num_classes=4), ["features.1.0", "features.3.0"]


def _shufflenet() -> tuple[nn.Module, list[str]]:
    return ShuffleNetV2([2, 1, 1], [8, 16, 16, 16, 16], num_classes=4), ["stage2.1", "stage3.0"]


def _vit() -> tuple[nn.Module, list[str]]:
    model = VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4)
    return model, ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"]


def _swin(**options: Any) -> tuple[nn.Module, list[str]]:
    """The second block of a stage shifts its windows; a map of 8 pixels does not divide into windows of 3."""
    sizes = {"patch_size": [4, 4], "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": [3, 3]}
    return SwinTransformer(**cast(Any, sizes), num_classes=4, **options), ["features.1.0", "features.1.1"]


MODELS: dict[str, Callable[[], tuple[nn.Module, list[str]]]] = {
    "convnext": _convnext,
    "shufflenet": _shufflenet,
    "swin": _swin,
    "swin_v2": lambda: _swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2),
    "vit": _vit,
}


def network_of(name: str, places: tuple[str, ...], **head: str) -> MultiExitNetwork:
    torch.manual_seed(0)
    settings = NetworkSettings(
        backbone=f"torchvision:{name}", exits_at=places, head=HeadSettings(kind="linear", **head)
    )
    return build_network(settings, classes=4, image_size=32, channels=3).eval()


def described(network: MultiExitNetwork) -> DescribedParts:
    rule = rule_of(Hierarchical(1.0), np.ones(network.exit_count))
    return describe_parts(prepare(network, "fp32"), Rule.from_json(rule), lambda what: None)


@torch.no_grad()
def test_a_model_with_squeeze_and_excitation_is_described_and_written_as_onnx() -> None:
    network = network_of("mobilenet_v3_small", ("features.1", "features.4"), pooling="max_average")
    parts = described(network)
    images = torch.randn(3, 3, 32, 32)
    state: tuple[torch.Tensor, ...] = (images,)
    for part in parts.parts:
        state = Part(part, parts.tensors)(*state)
    assert torch.allclose(state[0], network.backbone(images), atol=1e-5)
    pytest.importorskip("onnxruntime")
    files = onnx_files(parts, precision="fp32", told=lambda what: None)
    assert set(files) == {"part-1.onnx", "part-2.onnx", "part-3.onnx", "head-1.onnx", "head-2.onnx"}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_models_of_all_forms_are_described_and_written_as_onnx(name: str) -> None:
    torch.manual_seed(0)
    model, places = MODELS[name]()
    for parameter in model.parameters():  # attention weights and scales start near 0
        torch.nn.init.normal_(parameter, std=0.2)
    last = "last" if name.startswith("swin") else "first"
    segmented = segment_module(model, places, image=(3, 32, 32), name=name, layout=last, class_token=name == "vit")
    network = MultiExitNetwork(segmented, HeadSettings(kind="linear"), classes=4, input_shape=(3, 32, 32)).eval()
    parts = described(network)
    for count in (1, 5):
        state: tuple[torch.Tensor, ...] = (torch.randn(count, 3, 32, 32),)
        expected = model(state[0])
        for part in parts.parts:
            state = Part(part, parts.tensors)(*state)
        assert torch.allclose(state[0], expected, atol=1e-4, rtol=1e-3)
    pytest.importorskip("onnxruntime")
    assert len(onnx_files(parts, precision="fp32", told=lambda what: None)) == 2 * len(places) + 1


class Cumulated(nn.Module):
    """Computes what no exported model can say."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(dim=2)


class Normalised(nn.GroupNorm):
    """Computes what has no form in ONNX."""


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], MultiExitNetwork]:
    """A network of one exit with a layer of its own, known as ``mine:build``."""

    def network(layer: nn.Module) -> MultiExitNetwork:
        model = nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        segmented = segment_module(model, ["1"], image=(3, 32, 32), name="mine:build")
        return MultiExitNetwork(segmented, HeadSettings(kind="linear"), classes=4, input_shape=(3, 32, 32)).eval()

    return network


def test_what_no_exported_model_can_say_is_told_in_one_line(own: Callable[[nn.Module], MultiExitNetwork]) -> None:
    with pytest.raises(
        UserError, match=r"^export: the part from segment 1 to exit 1 computes aten\.cumsum\.default, which no"
    ):
        described(own(Cumulated()))
    with pytest.raises(UserError, match=r"--format onnx: .* computes group_norm.default, .* take --format torch"):
        onnx_files(described(own(Normalised(2, 8))), precision="fp32", told=lambda what: None)


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (Cumulated(), "mine:build computes aten.cumsum.default, which no exported model can say"),
        (Normalised(2, 8), "mine:build computes group_norm.default, which has no form in ONNX: take --format torch"),
        (nn.ReLU(), None),
    ],
    ids=["none", "torch", "all"],
)
def test_a_plan_knows_what_export_will_refuse(
    own: Callable[[nn.Module], MultiExitNetwork], layer: nn.Module, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "meta_network", lambda settings, info: own(layer).to("meta"))
    settings = [NetworkSettings(backbone="mine:build"), NetworkSettings(backbone="mine:build", width=0.5)]
    lines = export_lines(settings, cast(Any, None))
    assert len(lines) == (told is not None) and all(str(told) in line and "\n" not in line for line in lines)


def test_the_networks_of_this_program_are_not_checked() -> None:
    """A dry run of a bundled study imports nothing for it."""
    assert export_lines([NetworkSettings(backbone="vgg19")], cast(Any, None)) == []


KINDS = """alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s mnasnet0_5 mobilenet_v2
mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet50 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 swin_t
swin_v2_t vgg11_bn vit_b_16"""


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS.split())
def test_every_kind_of_torchvision_model_can_be_exported(name: str) -> None:
    info = SimpleNamespace(class_names=("a", "b"), image_size=64, channels=3)
    settings = NetworkSettings(backbone=f"torchvision:{name}", head=HeadSettings(kind="conv"))
    assert export_lines([settings], cast(Any, info)) == []
