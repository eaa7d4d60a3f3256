"""FLOPs against counts by hand: 2 x multiply-accumulates of convolutions and linear layers."""

import numpy as np
import pytest
import torch

from study.costs.flops import NetworkWork, count_work
from study.networks import HeadSettings, MultiExitNetwork, NetworkSettings, build_network


def network(backbone: str, *, classes=10, image_size=32, channels=3, width=1.0, kind="bof") -> MultiExitNetwork:
    settings = NetworkSettings(backbone=backbone, width=width, head=HeadSettings(kind=kind))
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
