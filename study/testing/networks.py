"""Checks of backbones and heads."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from study.costs.flops import count_work
from study.networks.heads import ReadFeature, Shape, build_heads
from study.networks.inference_network import all_logits
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.quantization import prepare
from study.networks.registry import ExitPoint, Form, State
from study.networks.settings import HeadSettings, NetworkSettings

BATCH = 3


def check_backbone(
    backbone: str | NetworkSettings,
    *,
    classes: int = 5,
    image_size: int = 32,
    channels: int = 3,
    int8: bool = False,
) -> MultiExitNetwork:
    """Check that a backbone is what a study needs; returns the network that was checked.

    Exits have names of their own and the shapes that heads expect; a state has a row for each image and segments do not
    overwrite it; segments give the answer of the whole model, also in a copy and in float64; every weight learns and
    is stored once, under the name that the model gives it; costs are counted on the device ``meta`` as on the CPU.

    Args:
        backbone: a name, or settings with a width, places of exits or heads.
        classes, image_size, channels: of the images.
        int8: also quantize each part.

    Raises:
        AssertionError: something does not hold; the message says what.
        UserError: the backbone cannot be built.
    """
    settings = backbone
    if isinstance(settings, str):
        settings = NetworkSettings(backbone=settings, head=HeadSettings(kind="linear"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(settings, classes=classes, image_size=image_size, channels=channels)
        images = torch.randn(BATCH, channels, image_size, image_size)
        network.eval()
        with torch.no_grad():
            _check_segments(network, images)
        _check_learning(network, images)
        network.eval()
        with torch.no_grad():
            _check_segments(network, images)  # with statistics of batch norm that have moved from their start
            _check_copies(network, images)
            if int8:
                logits = all_logits(prepare(network, "int8", calibration=images), images)
                assert logits.shape == (BATCH, network.exit_count + 1, classes), "int8 gives logits of another shape"
                assert logits.isfinite().all(), "int8 gives logits that are not finite"
    _check_names(network)
    with torch.device("meta"):
        shapes = build_network(settings, classes=classes, image_size=image_size, channels=channels)
    assert shapes.exit_shapes == network.exit_shapes, "the exits have other shapes on the device meta"
    here, there = count_work(network), count_work(shapes)
    assert here == there, "costs on the device meta differ from those on the CPU"
    assert all(flops > 0 for flops in here.head_flops), "a head costs nothing"
    assert here.segment_flops.sum() > 0, "no segment costs anything"
    return network


def check_head(head: str | HeadSettings, *, classes: int = 5) -> None:
    """Check heads of a kind on maps, maps with channels last, tokens and single values.

    Each exit gives finite logits ``[B, C]`` that depend on its feature alone and not on the other images; every weight
    learns; a description on the device ``meta`` has the same weights.

    Raises:
        AssertionError: something does not hold; the message says what.
    """
    settings = HeadSettings(kind=head) if isinstance(head, str) else head  # type: ignore[arg-type]  # checked there
    forms: list[tuple[Form, tuple[int, ...], Shape]] = [
        ("map", (8, 6, 6), (8, 6, 6)),
        ("map", (8,), (8, 1, 1)),
        ("map_channels_last", (6, 6, 8), (8, 6, 6)),
        ("tokens", (10, 8), (8, 1, 1)),
        ("tokens_behind_class", (10, 8), (8, 1, 1)),
    ]
    exits = [
        ExitPoint(f"exit{number}", "all", "all", grid=2 if shape[1] > 1 else 1, form=form)
        for number, (form, _, shape) in enumerate(forms, start=1)
    ]
    shapes = [shape for *_, shape in forms]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        heads = build_heads(settings, exits, shapes=shapes, classes=classes)
        features = [torch.randn(BATCH, *size) for _, size, _ in forms]
        read = ReadFeature(exits, settings.tokens)
        heads.train()
        loss = sum((heads(feature, exit).square().sum() for exit, feature in enumerate(features, start=1)), Tensor([0]))
        loss.backward()
        still = [name for name, one in heads.named_parameters() if one.grad is None or not one.grad.isfinite().all()]
        assert not still, f"{still[0]} gets no finite gradient"
        heads.eval()
        with torch.no_grad():
            for exit, (feature, shape) in enumerate(zip(features, shapes, strict=True), start=1):
                assert read(feature, exit).shape == (BATCH, *shape), f"exit {exit} reads another shape"
                logits = heads(feature, exit)
                assert logits.shape == (BATCH, classes), f"exit {exit} gives {list(logits.shape)}, not [B, C]"
                assert logits.isfinite().all(), f"exit {exit} gives logits that are not finite"
                alone = torch.cat([heads(one[None], exit) for one in feature])
                assert torch.allclose(alone, logits, atol=1e-5), f"exit {exit} depends on the other images of a batch"
    with torch.device("meta"):
        described = build_heads(settings, exits, shapes=shapes, classes=classes)
    assert _sizes(described) == _sizes(heads), "heads have other weights on the device meta"


def _sizes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _check_learning(network: MultiExitNetwork, images: Tensor) -> None:
    network.train()
    network(images).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient from the exits and the classifier"
        assert parameter.grad.isfinite().all(), f"{name} gets a gradient that is not finite"
    network.zero_grad()


def _check_segments(network: MultiExitNetwork, images: Tensor) -> None:
    names = [point.name for point in network.exits]
    assert len(set(names)) == len(names), "two exits have the same name"
    assert len(network.segments) == len(names) == network.exit_count, "there are not as many segments as exits"
    state: State = (images,)
    read = ReadFeature(network.exits, None)
    for exit, segment in enumerate(network.segments, start=1):
        before = [one.clone() for one in state]
        following = segment(state)
        same = all(torch.equal(one, old) for one, old in zip(state, before, strict=True))
        assert same, f"segment {exit} overwrites what it reads"
        state = following
        assert all(len(one) == len(images) for one in state), f"the state behind exit {exit} lacks a row for each image"
        shape = tuple(read(state[0], exit).shape[1:])
        assert shape == network.exit_shapes[exit - 1], f"exit {exit} has the shape {shape}"
    logits, whole = network.classifier(state), network.backbone(images)
    assert torch.allclose(logits, whole, rtol=1e-4, atol=1e-5), "the segments give another answer than the whole model"


def _check_copies(network: MultiExitNetwork, images: Tensor) -> None:
    expected = network(images)
    clone = copy.deepcopy(network).double()
    close = torch.allclose(clone(images.double()).float(), expected, rtol=1e-3, atol=1e-3)
    assert close, "a copy in float64 gives another answer: its segments hold other layers than its backbone"
    for tensor in [*clone.parameters(), *clone.buffers()]:
        tensor.zero_()
    assert torch.equal(network(images), expected), "a copy shares its weights with the network"


def _check_names(network: MultiExitNetwork) -> None:
    state = network.state_dict()
    places = [tensor.data_ptr() for tensor in state.values() if tensor.numel()]
    assert len(set(places)) == len(places), "a weight is stored twice"
    own = {name.removeprefix("backbone.") for name in state if name.startswith("backbone.")}
    assert own == set(network.backbone.state_dict()), "weights have other names than those of the model"
