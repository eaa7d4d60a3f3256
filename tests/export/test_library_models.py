"""Models of a library as exported models, and the line where a model cannot be one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.vision_transformer import VisionTransformer

from study.deploy.rule import Rule
from study.deploy.torch_parts import Part
from study.errors import UserError
from study.export.onnx_graphs import onnx_files
from study.export.parts import DescribedParts, describe_parts
from study.export.rule import rule_of
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.quantization import prepare
from study.networks.segmenter import segment_module
from study.networks.settings import HeadSettings, NetworkSettings
from study.policies.policies import Hierarchical


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


def test_what_no_exported_model_can_say_is_told_in_one_line() -> None:
    with pytest.raises(
        UserError, match=r"^export: the part from segment 1 to exit 1 computes aten\.[a-z_.]+, which no"
    ):
        described(network_of("shufflenet_v2_x0_5", ("stage2.1",)))


@torch.no_grad()
def test_a_network_of_tokens_is_described() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(16, 4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4)
    torch.nn.init.normal_(model.heads.head.weight)
    places = ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"]
    segmented = segment_module(model, places, image=(3, 16, 16), name="vit", class_token=True)
    network = MultiExitNetwork(segmented, HeadSettings(kind="linear"), classes=4, input_shape=(3, 16, 16)).eval()
    parts = described(network)
    for count in (1, 5):
        state: tuple[torch.Tensor, ...] = (torch.randn(count, 3, 16, 16),)
        expected = model(state[0])
        for part in parts.parts:
            state = Part(part, parts.tensors)(*state)
        assert torch.allclose(state[0], expected, atol=1e-5)
    with pytest.raises(UserError, match=r"--format onnx: .* take --format torch"):
        onnx_files(parts, precision="fp32", told=lambda what: None)
