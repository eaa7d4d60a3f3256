"""The published accounting against counts by hand, and what it does to the share of an early exit."""

import numpy as np
import pytest
import torch

from study.costs.flops import NetworkWork, count_work
from study.costs.published_program import published_program_flops
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.settings import HeadSettings, NetworkSettings


def network(backbone: str, *, image_size=32, width=1.0, kind="bof") -> MultiExitNetwork:
    settings = NetworkSettings(backbone=backbone, width=width, head=HeadSettings(kind=kind))
    return build_network(settings, classes=10, image_size=image_size, channels=3)


@pytest.fixture(scope="module")
def vgg19() -> MultiExitNetwork:
    return network("vgg19")


@pytest.fixture(scope="module")
def resnet34() -> MultiExitNetwork:
    return network("resnet34")


def convolution(inputs: int, outputs: int, side: int) -> int:
    """2 x multiply-accumulates, without a kernel."""
    return 2 * side * side * inputs * outputs


LINEAR = 2 * (4 * 64 * 64 + 64 * 10)
"""Of a Bag-of-Features head on a 2 x 2 grid."""


def test_vgg19_by_hand(vgg19):
    """Multiply-accumulates at 32 pixels; each pool as a convolution onto the map that it writes.

    stage 1    32^2 x (3 x 64 + 64^2)          =  4,390,912   pool 16^2 x 64^2   =  1,048,576
    stage 2    16^2 x (64 x 128 + 128^2)       =  6,291,456   pool 8^2 x 128^2   =  1,048,576
    stage 3    8^2 x (128 x 256 + 3 x 256^2)   = 14,680,064   pool 4^2 x 256^2   =  1,048,576
    stage 4    4^2 x (256 x 512 + 3 x 512^2)   = 14,680,064   pool 2^2 x 512^2   =  1,048,576
    stage 5    2^2 x 4 x 512^2                 =  4,194,304   pool 1 x 512^2     =    262,144  (the classifier's)
    classifier 512 x 10                        =      5,120
    """
    segments, heads = published_program_flops(vgg19)
    convolutions = 4_390_912 + 6_291_456 + 14_680_064 + 14_680_064 + 4_194_304
    pools = 4 * 1_048_576 + 262_144
    assert segments.shape == (21,)
    assert segments.sum() == 2 * (convolutions + pools + 5_120)
    assert segments[:4].tolist() == [
        convolution(3, 64, 32),
        convolution(64, 64, 32),
        convolution(64, 64, 16),
        convolution(64, 128, 16),
    ]
    assert segments[20] == 2 * (262_144 + 5_120)
    assert heads.shape == (20,)
    assert heads[0] == convolution(64, 64, 32) + LINEAR
    assert heads[19] == convolution(512, 64, 2) + 2 * 64 * 10  # g = 1: no hidden layer


def test_resnet34_by_hand(resnet34):
    """Multiply-accumulates with every stage at 32 x 32, projections being 1x1 anyway.

    stem       3 x 64                                      =       192
    stage 1    6 x 64^2                                    =    24,576
    stage 2    64 x 128  + 7 x 128^2  + projection         =   131,072
    stage 3    128 x 256 + 11 x 256^2 + projection         =   786,432
    stage 4    256 x 512 + 5 x 512^2  + projection         = 1,572,864
               all of it 1,024 times, and 512 x 10 of the classifier
    """
    segments, heads = published_program_flops(resnet34)
    assert segments.shape == (33,)
    assert segments.sum() == 2 * (1024 * (192 + 24_576 + 131_072 + 786_432 + 1_572_864) + 5_120)
    assert segments[0] == 2 * 4_390_912  # stem and first convolution
    assert segments[6] == convolution(64, 128, 32)
    assert segments[7] == convolution(128, 128, 32) + convolution(64, 128, 32)
    assert segments[31] == convolution(512, 512, 32)
    assert segments[32] == 2 * 512 * 10
    assert heads.shape == (32,)
    assert heads[0] == convolution(64, 64, 32) + LINEAR
    assert heads[31] == convolution(512, 64, 32) + LINEAR


def test_the_stem_of_a_resnet_keeps_its_own_maps():
    """96 pixels: a convolution onto 96 x 96, a max-pool onto 32 x 32, then stage 1."""
    segments, _ = published_program_flops(network("resnet18", width=0.125, image_size=96))
    assert segments[0] == convolution(3, 8, 96) + convolution(8, 8, 32) + convolution(8, 8, 32)
    assert segments[-2] == convolution(64, 64, 32)


def test_linear_heads_cost_what_they_are():
    net = network("resnet18", width=0.125, kind="linear")
    assert np.array_equal(published_program_flops(net)[1], count_work(net).head_flops)


def shares(network: MultiExitNetwork) -> tuple[np.ndarray, np.ndarray]:
    """Cost up to each exit, without heads, as a share of the whole network: true and published, ``[E]`` each."""
    work: NetworkWork = count_work(network)
    true, published = (
        segments.cumsum()[:-1] / segments.sum()
        for segments in (work.segment_flops, published_program_flops(network)[0])
    )
    return true, published


def test_every_exit_of_resnet34_looks_cheaper_than_it_is(resnet34):
    """Of early exits the most: the whole of stage 1 is a fifth of the network, and is published as a hundredth."""
    true, published = shares(resnet34)
    assert (published < true)[:31].all()
    # Behind exit 32 comes only the classifier, whose 5,120 products weigh less beside the larger sum.
    assert 0.99999 < true[31] < published[31] < 1
    assert true[5] == pytest.approx(0.1969, abs=1e-4)
    assert published[5] == pytest.approx(0.0098, abs=1e-4)


def test_vgg19_looks_cheaper_at_some_exits_only(vgg19):
    """The missing kernel cancels in a share (each is 3x3), so that only the pools move it.

    They make the sum larger (lower shares), but count in full behind each pool (higher shares there), most behind the
    second one.
    """
    true, published = shares(vgg19)
    assert (np.flatnonzero(published < true) + 1).tolist() == [1, 2, 5, 9, 10, 13, 14, 15, 18, 19, 20]
    assert np.argmax(np.abs(published - true)) + 1 == 6
    assert published[5] - true[5] == pytest.approx(0.0209, abs=1e-4)


def test_vgg19_heads_look_dearer_than_they_are(vgg19):
    """Their convolutions are 1x1, hence lose nothing, while the network beside them loses most of its sum."""
    work = count_work(vgg19)
    segments, heads = published_program_flops(vgg19)
    assert np.array_equal(heads, work.head_flops)
    assert work.segment_flops.sum() / segments.sum() == pytest.approx(8.18, abs=0.01)


def test_counting_changes_nothing():
    net = network("resnet18", width=0.125).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    published_program_flops(net)
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
