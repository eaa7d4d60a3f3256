"""FLOPs (2 x multiply-accumulates of convolutions and linear layers), parameters, activations: all by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from study.costs.flops import NetworkWork, count_work
from study.costs.memory import Memory
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.registry import ExitPoint, FeatureClassifier, Segmented
from study.networks.segmenter import segment_module
from study.networks.settings import HeadSettings, NetworkSettings


def network(
    backbone: str, *, classes=10, image_size=32, channels=3, width=1.0, kind="bof", layers=2
) -> MultiExitNetwork:
    settings = NetworkSettings(backbone=backbone, width=width, head=HeadSettings(kind=kind, conv_layers=layers))
    return build_network(settings, classes=classes, image_size=image_size, channels=channels)


@pytest.fixture(scope="module")
def vgg19() -> NetworkWork:
    return count_work(network("vgg19"))


@pytest.fixture(scope="module")
def resnet34() -> NetworkWork:
    return count_work(network("resnet34"))


def convolution(inputs: int, outputs: int, side: int, kernel: int = 3) -> int:
    """FLOPs of a convolution onto a side x side map."""
    return 2 * kernel * kernel * inputs * outputs * side * side


def linear(inputs: int, outputs: int) -> int:
    return 2 * inputs * outputs


# --- VGG-19 ----------------------------------------------------------------------------------------------------------


def test_vgg19_segments_by_hand(vgg19):
    """Stages of 2, 2, 4, 4, 4 convolutions at 32, 16, 8, 4, 2 pixels; a max-pool segment counts nothing."""
    expected, inputs = [], 3
    for stage, (outputs, count) in enumerate([(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]):
        for _ in range(count):
            expected.append(convolution(inputs, outputs, 32 >> stage))
            inputs = outputs
        expected.append(0)  # the pool; that of the last stage belongs to the classifier
    expected[-1] = linear(512, 10)
    assert len(expected) == 21
    assert vgg19.segment_flops.tolist() == expected
    assert expected[:3] == [3_538_944, 75_497_472, 0]
    assert sum(expected[:-1]) == pytest.approx(0.796e9, rel=1e-3)


def test_deeper_heads_by_hand():
    """Two convolutions of 64 channels at 8 x 8 pixels, two of 128 at 4 x 4; at exit 16 four of 64 at 2 x 2."""
    work = count_work(network("vgg19", kind="conv", layers=4))
    expected = {
        1: convolution(64, 64, 8) * 2 + convolution(64, 128, 4) + convolution(128, 128, 4) + linear(128, 10),
        16: convolution(512, 64, 2) + convolution(64, 64, 2) * 3 + linear(64, 10),
    }
    assert {exit: work.head_flops[exit - 1] for exit in expected} == expected


def test_vgg19_heads_by_hand(vgg19):
    """Each: 1x1 convolution onto 64 codewords, then 4 x 64 -> 64 where g = 2, then 64 -> classes."""
    output, hidden = linear(64, 10), linear(4 * 64, 64)
    expected = {
        1: convolution(64, 64, 32, kernel=1) + hidden + output,  # g = 2
        3: convolution(64, 64, 16, kernel=1) + output,  # behind a pool: g = 1
        4: convolution(128, 64, 16, kernel=1) + hidden + output,
        16: convolution(512, 64, 2, kernel=1) + output,  # behind the fourth pool
        20: convolution(512, 64, 2, kernel=1) + output,  # last stage: g = 1
    }
    assert {exit: vgg19.head_flops[exit - 1] for exit in expected} == expected
    assert len(vgg19.head_flops) == 20


def test_vgg19_weights_and_activations_by_hand(vgg19):
    """conv1_1: 3x3x3 to 64 with bias; batch norm: scale, shift, mean and variance of each channel."""
    first = vgg19.segments[0]
    assert first.activation_elements == 3 * 32 * 32 + 64 * 32 * 32
    assert first.weight_elements == 27 * 64 + 64 + 4 * 64
    pool = vgg19.segments[2]
    assert (pool.weight_elements, pool.activation_elements) == (0, 64 * 32 * 32 + 64 * 16 * 16)
    last = vgg19.segments[20]
    assert (last.weight_elements, last.activation_elements) == (512 * 10 + 10, 512 * 2 * 2 + 10)


# --- ResNet-34 -------------------------------------------------------------------------------------------------------


def test_resnet34_total_by_hand(resnet34):
    """Multiply-accumulates for 32 pixels, stem 3x3 of stride 1 without max-pool, so that stages have 32, 16, 8, 4.

    stem       27 x 64 x 32^2                                             =     1,769,472
    stage 1    3 blocks = 6 convolutions of 9 x 64 x 64 x 32^2            =   226,492,416
    stage 2    one of 9 x 64 x 128 x 16^2, 7 of 9 x 128 x 128 x 16^2      =   283,115,520
               and the projection 64 x 128 x 16^2                         =     2,097,152
    stage 3    one of 9 x 128 x 256 x 8^2, 11 of 9 x 256 x 256 x 8^2      =   434,110,464
               and the projection 128 x 256 x 8^2                         =     2,097,152
    stage 4    one of 9 x 256 x 512 x 4^2, 5 of 9 x 512 x 512 x 4^2       =   207,618,048
               and the projection 256 x 512 x 4^2                         =     2,097,152
    classifier 512 x 10                                                   =         5,120
    """
    by_hand = [1_769_472, 226_492_416, 283_115_520, 2_097_152, 434_110_464, 2_097_152, 207_618_048, 2_097_152, 5_120]
    assert len(resnet34.segments) == 33
    assert resnet34.segment_flops.sum() == 2 * sum(by_hand) == 2_318_804_992


def test_resnet34_segments_by_hand(resnet34):
    """The stem runs in segment 1; a projection shortcut is charged to its block's second segment."""
    flops = resnet34.segment_flops
    assert flops[0] == convolution(3, 64, 32) + convolution(64, 64, 32)
    assert flops[1] == convolution(64, 64, 32)
    assert flops[6] == convolution(64, 128, 16)
    assert flops[7] == convolution(128, 128, 16) + convolution(64, 128, 16, kernel=1)
    assert flops[31] == convolution(512, 512, 4)
    assert flops[32] == linear(512, 10)


def test_resnet34_heads_by_hand(resnet34):
    """g = 2 everywhere."""
    linears = linear(4 * 64, 64) + linear(64, 10)
    assert resnet34.head_flops[0] == convolution(64, 64, 32, kernel=1) + linears
    assert resnet34.head_flops[31] == convolution(512, 64, 4, kernel=1) + linears


def test_resnet_activations_count_the_skip_once(resnet34):
    """A block's first segment only carries its input on; the second reads feature and skip."""
    one = 64 * 32 * 32
    assert resnet34.segments[1].activation_elements == 3 * one  # feature, skip, output
    assert resnet34.segments[2].activation_elements == 2 * one  # input, output


# --- parameters ------------------------------------------------------------------------------------------------------


def bof_head(channels: int, exits: int, grid: int = 2) -> int:
    """Codebook (1x1 convolution onto 64 codewords with bias, 3 scalars), a scale for each exit, linear layers."""
    hidden = 4 * 64 * 64 + 64 if grid == 2 else 0
    return (64 * channels + 64 + 3) + exits + hidden + (64 * 10 + 10)


def test_vgg19_parameters_by_hand(vgg19):
    """Kernels without biases, batch norms (scale and shift of 5,504 channels), biases, and the linear layer.

    kernels    9 x (3 x 64 + 64^2 + 64 x 128 + 128^2 + 128 x 256 + 3 x 256^2 + 256 x 512 + 7 x 512^2)  =  20,018,880
    norms      2 x 5,504                                                                               =      11,008
    biases     5,504                                                                                   =       5,504
    classifier 512 x 10 + 10                                                                           =       5,130
    """
    at_exits = vgg19.parameters_at_exits
    assert at_exits.shape == (21,)
    assert at_exits[20] == 20_018_880 + 11_008 + 5_504 + 5_130 == 20_040_522
    conv1_1, conv1_2 = 27 * 64 + 3 * 64, 9 * 64 * 64 + 3 * 64
    assert at_exits[0] == conv1_1 + bof_head(64, exits=20)
    assert at_exits[1] == conv1_1 + conv1_2 + bof_head(64, exits=20)  # the same head, once
    assert at_exits[2] == conv1_1 + conv1_2 + bof_head(64, exits=20, grid=1)  # a pool has none
    assert at_exits[19] == at_exits[20] - 5_130 + bof_head(512, exits=20, grid=1)


def test_resnet34_parameters_by_hand(resnet34):
    """No convolution has a bias; batch norms have 8,512 channels, 64 + 6 x 64 + 9 x 128 + 13 x 256 + 7 x 512.

    stem       9 x 3 x 64                                       =      1,728
    stage 1    6 of 9 x 64^2                                    =    221,184
    stage 2    9 x 64 x 128,  7 of 9 x 128^2,  64 x 128         =  1,114,112
    stage 3    9 x 128 x 256, 11 of 9 x 256^2, 128 x 256        =  6,815,744
    stage 4    9 x 256 x 512, 5 of 9 x 512^2,  256 x 512        = 13,107,200
    norms      2 x 8,512                                        =     17,024
    classifier 512 x 10 + 10                                    =      5,130
    """
    by_hand = [1_728, 221_184, 1_114_112, 6_815_744, 13_107_200, 17_024, 5_130]
    at_exits = resnet34.parameters_at_exits
    assert at_exits.shape == (33,)
    assert at_exits[32] == sum(by_hand) == 21_282_122
    one = 9 * 64 * 64 + 2 * 64
    assert at_exits[0] == 1_728 + 2 * 64 + one + bof_head(64, exits=32)
    # A projection (1x1 convolution and batch norm) belongs to its block's second segment.
    assert resnet34.segments[6].parameters == 9 * 64 * 128 + 2 * 128
    assert resnet34.segments[7].parameters == 9 * 128 * 128 + 64 * 128 + 4 * 128


@pytest.mark.parametrize("backbone", ["vgg11", "resnet18"])
def test_parameters_of_the_whole_backbone_are_those_that_torch_lists(backbone):
    net = network(backbone, width=0.125)
    assert count_work(net).parameters_at_exits[-1] == sum(p.numel() for p in net.backbone.parameters())


# --- peak of activations ---------------------------------------------------------------------------------------------


def test_vgg19_peaks_by_hand(vgg19):
    """A convolution needs its input and its output; batch norm and ReLU write over it."""
    segments = [part.peak_activation_elements for part in vgg19.segments]
    assert segments[0] == 3 * 32**2 + 64 * 32**2
    assert segments[1] == 2 * 64 * 32**2
    assert segments[2] == 64 * 32**2 + 64 * 16**2  # max-pool, without its indices
    assert segments[3] == 64 * 16**2 + 128 * 16**2
    assert segments[20] == 512 * 2**2 + 512  # max-pool to one pixel; the linear layer needs less


def test_resnet34_peaks_keep_the_skip(resnet34):
    """One map of stage 1 has 64 x 32^2 = 65,536 elements, one of stage 2 half as many."""
    one, half = 64 * 32**2, 128 * 16**2
    segments = [part.peak_activation_elements for part in resnet34.segments]
    # The stem's convolution needs less than conv1, whose input is the skip.
    assert segments[0] == 2 * one
    assert segments[1] == 3 * one  # conv2: its input, its output, the skip
    assert segments[2] == 2 * one  # conv1, whose input is the next skip
    assert segments[6] == one + half
    # conv2: skip, input, output. Then the projection: skip, its output, conv2's output. The addition: two halves.
    assert segments[7] == one + 2 * half
    assert segments[8] == 2 * half
    assert segments[32] == 512 * 4**2 + 512


def test_peaks_of_heads_keep_the_whole_state(vgg19, resnet34):
    """Bag-of-Features: the feature, 64 similarities a pixel, their sum at each pixel; and the skip, where one waits."""
    pixels = 32**2
    assert vgg19.heads[0].peak_activation_elements == (64 + 64 + 1) * pixels
    assert resnet34.heads[0].peak_activation_elements == (64 + 64 + 64 + 1) * pixels
    assert resnet34.heads[1].peak_activation_elements == (64 + 64 + 1) * pixels
    assert resnet34.heads[6].peak_activation_elements == 64 * pixels + (128 + 64 + 1) * 16**2  # the skip is stage 1's


def test_peaks_at_exits_by_hand(resnet34):
    """Exit 1's own head is the largest part there; from exit 2 on it is conv2 of stage 1, or a head with a skip."""
    pixels = 32**2
    at_exits = Memory.of(resnet34, "fp32", batch_size=1).maps_of_cuts() / 4  # bytes of an fp32 element
    assert at_exits.shape == (33,)
    assert at_exits[0] == (64 + 64 + 64 + 1) * pixels
    assert at_exits[1] == 3 * 64 * pixels  # the head of exit 1 is not there any more
    assert at_exits[2] == at_exits[0]
    assert set(at_exits[6:]) == {3 * 64 * pixels}


class WideMiddle(nn.Module):
    """An element-wise layer whose input is read again, a layer as a function, and a view."""

    def forward(self, state: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        image = state[0]
        activated = image.sigmoid()  # the image is still needed: a second map
        both = torch.cat([image, activated], dim=1)  # four maps
        return (both.flatten(2).relu().mean(dim=2)[:, :, None, None],)


def test_peak_follows_what_is_read_again():
    """16 pixels of one plane: image, its sigmoid, and both side by side."""

    model = nn.Sequential(WideMiddle(), nn.Flatten(), nn.Linear(2, 3))
    exits = (ExitPoint("only", "only", "only", grid=1),)
    segmented = Segmented(model, (model[0],), FeatureClassifier(*model[1:]), exits)
    net = MultiExitNetwork(segmented, HeadSettings(kind="linear"), classes=3, input_shape=(1, 4, 4))
    work = count_work(net)
    assert work.segments[0].peak_activation_elements == 16 + 16 + 32
    assert work.segments[1].peak_activation_elements == 2 + 3
    assert work.heads[0].peak_activation_elements == 2 + 2 + 3  # the state, its average over one pixel, the logits


# --- any network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [10, 100])
def test_an_engine_step_is_two_additions_a_class(classes):
    work = count_work(network("vgg11", classes=classes, width=0.125))
    assert work.engine_step.flops == 2 * classes


def test_linear_heads_by_hand():
    work = count_work(network("vgg11", width=0.125, kind="linear", classes=7))
    channels = [8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64, 64]  # conv, pool, conv, pool, conv, conv, pool, ...
    assert work.head_flops.tolist() == [linear(c, 7) for c in channels]
    # Each is charged for its own weights only.
    assert [head.weight_elements for head in work.heads] == [7 * c + 7 for c in channels]


def test_counting_changes_nothing():
    net = network("resnet18", width=0.125).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first, second = count_work(net), count_work(net)
    assert net.training
    assert first == second
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_larger_images_and_more_channels_are_followed():
    """96 pixels: the first convolution is 9 times that of 32 pixels; 1 plane instead of 3 is a third."""
    small = count_work(network("vgg11", width=0.125)).segment_flops
    large = count_work(network("vgg11", width=0.125, image_size=96)).segment_flops
    grey = count_work(network("vgg11", width=0.125, channels=1)).segment_flops
    assert np.array_equal(large[:-1], 9 * small[:-1])
    assert grey[0] * 3 == small[0]
    assert np.array_equal(grey[1:], small[1:])


@pytest.mark.parametrize("backbone", ["vgg11", "resnet18"])
def test_shapes_alone_give_the_work_of_the_network(backbone: str) -> None:
    settings = NetworkSettings(backbone=backbone, width=0.125, head=HeadSettings(kind="conv"))
    with torch.device("meta"):
        shapes = build_network(settings, classes=10, image_size=32, channels=3)
    assert count_work(shapes) == count_work(build_network(settings, classes=10, image_size=32, channels=3))


def test_costs_of_attention_are_the_same_without_numbers() -> None:
    def counted() -> NetworkWork:
        model = VisionTransformer(16, 4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)
        image = (3, 16, 16)
        cut = segment_module(model, ["encoder.layers.encoder_layer_0"], image=image, name="vit", class_token=True)
        return count_work(MultiExitNetwork(cut, HeadSettings(kind="linear"), classes=5, input_shape=image))

    here = counted()
    with torch.device("meta"):
        there = counted()
    assert here == there
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_output_layer_of_an_attention_counts_among_the_parameters():
    """``nn.MultiheadAttention`` reads its weights without calling the layer."""
    settings = NetworkSettings(backbone="torchvision:vit_b_16", head=HeadSettings(kind="linear"))
    with torch.device("meta"):
        network = build_network(settings, classes=4, image_size=32, channels=3)
    whole = sum(parameter.numel() for parameter in network.backbone.parameters())
    assert count_work(network).parameters_at_exits[-1] == whole
