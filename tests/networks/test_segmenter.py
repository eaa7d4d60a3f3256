"""Any module as segments: places, answers, states, and what cannot be cut."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork
from study.networks.segmenter import check_equal, segment_module
from study.networks.settings import HeadSettings

IMAGE = (3, 16, 16)


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Branched(nn.Module):
    """A skip over two blocks, a buffer and a parameter of its own, and a layer that overwrites its input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.gain = nn.Parameter(torch.ones(8, 1, 1))
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.stage = nn.Sequential(block(8, 8), block(8, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        skip = self.act(self.stem(images - self.mean))
        maps = self.stage(skip) * self.gain.exp() + skip
        return self.head(maps.mean(dim=(2, 3)))


def vit() -> nn.Module:
    return VisionTransformer(16, 4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)


def swin() -> nn.Module:
    return SwinTransformer([2, 2], 8, [2, 2], [2, 2], window_size=[2, 2], num_classes=5)


def convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 2)], num_classes=5)


MODELS = {
    "branched": (Branched, ["stem", "stage.0", "stage.1"], "first"),
    "convnext": (convnext, ["features.1.0", "features.3.0", "features.3.1"], "first"),
    "vit": (vit, ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"], "first"),
    "swin": (swin, ["features.1.0", "features.1.1", "features.3.1"], "last"),
}


def network_of(name: str, kind: str = "linear", tokens: str | None = None) -> MultiExitNetwork:
    torch.manual_seed(0)
    make, exits, layout = MODELS[name]
    model = make()
    segmented = segment_module(
        model, exits, image=IMAGE, name=name, layout=layout, class_token=name == "vit", check=True
    )
    head = HeadSettings(kind=kind, conv_channels=8, codewords=8, tokens=tokens)
    return MultiExitNetwork(segmented, head, classes=5, input_shape=IMAGE)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["bof", "linear", "conv", "separable"])
def test_segments_give_the_modules_answer_and_heads_read_every_form(name, kind):
    net = network_of(name, kind).eval()
    images = torch.randn(3, *IMAGE)
    with torch.no_grad():
        logits = net(images)
        assert torch.equal(logits[:, -1], net.backbone(images))
    assert logits.shape == (3, net.exit_count + 1, 5)
    assert {name.split(".")[0] for name in net.state_dict()} == {"backbone", "heads"}
    assert set(net.backbone.state_dict()) == set(MODELS[name][0]().state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_joint_training_has_the_modules_own_gradients(name):
    net = network_of(name).double().train()
    for layer in net.modules():  # stochastic depth would differ between two passes
        if hasattr(layer, "p"):
            layer.p = 0.0
    twin = copy.deepcopy(net.backbone)
    images = torch.randn(4, *IMAGE, dtype=torch.float64)
    net(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    net.zero_grad()
    net.classify(images).square().sum().backward()
    twin(images).square().sum().backward()
    for ours, theirs in zip(net.backbone.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", MODELS)
def test_segments_stay_views_after_a_move_and_in_a_copy(name):
    net = network_of(name).eval()
    clone = copy.deepcopy(net).double()
    images = torch.randn(2, *IMAGE)
    with torch.no_grad():
        assert torch.equal(clone.classify(images.double()), clone.backbone(images.double()))
        for tensor in [*clone.parameters(), *clone.buffers()]:
            tensor.zero_()
        assert torch.equal(net.classify(images), net.backbone(images))
        assert clone.classify(images.double()).abs().max() == 0


def test_an_exit_reads_what_it_read_although_the_next_layer_worked_in_place():
    net = network_of("branched").eval()
    with torch.no_grad():
        (feature,) = net.segments[0]((torch.randn(2, *IMAGE),))
        before = feature.clone()
        net.segments[1]((feature,))
    assert torch.equal(feature, before)
    assert before.min() < 0, "the exit stands behind the convolution, not behind its ReLU"


def test_shapes_and_forms_of_tokens_and_maps():
    assert network_of("vit").exit_shapes == ((16, 1, 1), (16, 1, 1))
    assert {point.form for point in network_of("vit").exits} == {"tokens_behind_class"}
    assert network_of("swin").exit_shapes == ((8, 8, 8), (8, 8, 8), (16, 4, 4))
    assert network_of("branched").exit_shapes == ((8, 16, 16),) * 3


@torch.no_grad()
def test_heads_read_the_class_token_or_the_mean_of_the_others():
    tokens = torch.randn(2, 17, 16)
    for setting, read in ((None, tokens[:, 0]), ("class", tokens[:, 0]), ("mean", tokens[:, 1:].mean(dim=1))):
        net = network_of("vit", tokens=setting)
        assert torch.allclose(net.heads(tokens, 1), net.heads.exits[0][-1](read), atol=1e-6)
    with pytest.raises(UserError, match=r"tokens is class, but exit stem has no class token"):
        network_of("branched", tokens="class")


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = block(3, 3), nn.Linear(3, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(images)).mean(dim=(2, 3)))


class Changing(Branched):
    """Each name is a way in which a forward cannot be cut."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.unused = way, nn.Linear(2, 2) if way == "unused" else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        if self.way == "decides" and images.mean() > 0:
            images = -images
        maps = self.act(self.stem(images - self.mean))
        count = maps.size(0)
        maps = self.stage(maps) * self.gain
        if self.way == "dropout":
            maps = nn.functional.dropout(maps, 0.5, self.training)
        if self.way == "number":
            maps = maps.reshape(count, 8, 16, 16)
        logits = self.head(maps.mean(dim=(2, 3)))
        return (logits, maps) if self.way == "tuple" else logits


@pytest.mark.parametrize(
    ("model", "exits", "told"),
    [
        (Branched(), [], "name at least one place"),
        (Branched(), ["stage.7"], "has no module 'stage.7': known are stage.0, stage.1"),
        (Branched(), ["stem", "stem"], "'stem' is named twice"),
        (Branched(), ["stage.1", "stem"], "in the order of the network, which is stem, stage.1"),
        (Branched(), ["stage", "stage.0"], "no exit can stand behind 'stage'"),
        (Twice(), ["layer"], "'layer': it is called more than once"),
        (Changing("decides"), ["stem"], "its forward cannot be cut there"),
        (Changing("dropout"), ["stem"], "computes something else in training outside of a module"),
        (Changing("number"), ["stage.0"], "int passes exit 1"),
        (Changing("tuple"), ["stem"], "its forward returns tuple"),
        (Changing("unused"), ["stem"], "does not use all of its layers"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(784, 2)), ["0"], "cannot run on images of 3 x 16"),
    ],
)
def test_what_cannot_be_cut_is_told_in_one_line(model, exits, told):
    with pytest.raises(UserError, match=r"^backbone mine") as error:
        segment_module(model, exits, image=IMAGE, name="mine")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_part_with_another_answer_is_told():
    segmented = segment_module(Branched(), ["stem"], image=IMAGE, name="mine")
    segmented.model.forward = lambda images: torch.ones(2, 5)
    with pytest.raises(UserError, match="give another answer than the module"):
        check_equal(segmented, IMAGE, "mine")
