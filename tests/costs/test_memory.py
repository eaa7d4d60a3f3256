"""Memory of policies and of cut networks, by hand."""

import pytest

from study import Classic, Hierarchical, Placed, Predictive, Static
from study.costs.flops import NetworkWork, Work, count_work
from study.costs.memory import Memory
from study.networks.multi_exit import build_network
from study.networks.settings import HeadSettings, NetworkSettings


def part(parameters: float, peak: float, **shared: float) -> Work:
    sizes = {"own": parameters, **shared}
    return Work(
        flops=1.0,
        weight_elements=0.0,
        activation_elements=0.0,
        parameters=sum(sizes.values()),
        parameter_sizes={(name if name in shared else f"{name}{parameters}"): size for name, size in sizes.items()},
        peak_activation_elements=peak,
    )


WORK = NetworkWork((part(10, 100), part(20, 50), part(5, 8)), (part(3, 120, book=7), part(4, 60, book=7)), part(0, 0))


def test_a_policy_keeps_the_parts_that_it_may_run():
    memory = Memory.of(WORK, "fp32", batch_size=1)
    # Cut at exit 1: segment 1 and head 1 with the codebook; the head's maps are the largest.
    assert memory.of_policy(Static(1)) == (10 + 3 + 7) * 4 + 120 * 4
    assert memory.of_policy(Static(2)) == (10 + 20 + 4 + 7) * 4 + 100 * 4
    assert memory.of_policy(Classic()) == (10 + 20 + 5) * 4 + 100 * 4
    # Both heads share the codebook, which is kept once; the classifier must be there for whom no exit stops.
    for policy in (Hierarchical(1.0), Predictive(1.0), Placed(1.0, (1, 2))):
        assert memory.of_policy(policy) == (10 + 20 + 5 + 3 + 4 + 7) * 4 + 120 * 4
    for policy in (Hierarchical(1.0, 2), Predictive(1.0, 2), Placed(1.0, (2,))):
        assert memory.of_policy(policy) == (10 + 20 + 5 + 4 + 7) * 4 + 100 * 4


def test_cut_networks_have_one_head_and_the_classic_none():
    cuts = Memory.of(WORK, "fp32", batch_size=2).of_cuts()
    assert cuts.tolist() == [20 * 4 + 120 * 8, (10 + 20 + 11) * 4 + 100 * 8, 35 * 4 + 100 * 8]


@pytest.mark.parametrize(
    ("precision", "segment", "head", "segment_map", "head_map"),
    [("fp32", 4, 4, 4, 4), ("bf16", 2, 4, 2, 4), ("int8", 1, 4, 4, 4), ("int8_all", 1, 1, 4, 4)],
)
def test_bytes_follow_the_precision(precision, segment, head, segment_map, head_map):
    memory = Memory.of(WORK, precision, batch_size=1)
    assert memory.segment_weights.tolist() == [10 * segment, 20 * segment, 5 * segment]
    assert [sum(weights.values()) for weights in memory.head_weights] == [10 * head, 11 * head]
    assert memory.segment_maps[0] == 100 * segment_map and memory.head_maps[0] == 120 * head_map


def test_vgg19_in_bytes():
    """20,040,522 parameters (14 of its convolutions dominate) in four bytes, or one."""
    settings = NetworkSettings(backbone="vgg19", head=HeadSettings(kind="linear"))
    work = count_work(build_network(settings, classes=10, image_size=32, channels=3))
    sizes = {name: Memory.of(work, name, 1).segment_weights.sum() for name in ("fp32", "int8")}
    assert sizes == {"fp32": 4 * 20_040_522, "int8": 20_040_522}


def test_shared_heads_are_kept_once():
    """All Bag-of-Features heads of VGG-19 together are the parameters of the heads module."""
    settings = NetworkSettings(backbone="vgg19", width=0.25, head=HeadSettings(kind="bof"))
    network = build_network(settings, classes=10, image_size=32, channels=3)
    memory = Memory.of(count_work(network), "fp32", 1)
    heads = memory.of_policy(Hierarchical(1.0)) - memory.of_policy(Classic())
    maps = memory.head_maps.max() - memory.segment_maps.max()
    assert heads - max(maps, 0) == 4 * sum(parameter.numel() for parameter in network.heads.parameters())
