"""Memory of walks and of cut networks, by hand."""

import numpy as np
import pytest

from study import Walk
from study.costs.flops import NetworkWork, Work, count_work
from study.costs.memory import Memory
from study.networks import HeadSettings, NetworkSettings, build_network


def part(parameters: float, peak: float) -> Work:
    return Work(
        flops=1.0, weight_elements=0.0, activation_elements=0.0, parameters=parameters, peak_activation_elements=peak
    )


WORK = NetworkWork((part(10, 100), part(20, 50), part(5, 8)), (part(3, 120), part(4, 60)), part(0, 0))


def walk(exit_index, tried) -> Walk:
    zeros = np.zeros(len(exit_index), dtype=np.int64)
    return Walk(np.array(exit_index), zeros, np.array(tried, dtype=bool), zeros)


def test_a_walk_keeps_the_parts_that_some_image_ran():
    memory = Memory.of(WORK, "fp32", batch_size=1)
    # Both stop at exit 1: segment 1 and head 1; the head's maps are the largest.
    assert memory.of_walk(walk([1, 1], [[1, 0], [1, 0]])) == (10 + 3) * 4 + 120 * 4
    # One runs on past head 2, which nobody tried.
    assert memory.of_walk(walk([1, 3], [[1, 0], [0, 0]])) == (10 + 20 + 5 + 3) * 4 + 120 * 4
    assert memory.of_walk(walk([3], [[0, 0]])) == (10 + 20 + 5) * 4 + 100 * 4


def test_cut_networks_have_one_head_and_the_classic_none():
    cuts = Memory.of(WORK, "fp32", batch_size=2).of_cuts()
    assert cuts.tolist() == [13 * 4 + 120 * 8, (10 + 20 + 4) * 4 + 100 * 8, 35 * 4 + 100 * 8]


@pytest.mark.parametrize(
    ("precision", "segment", "head", "segment_map", "head_map"),
    [("fp32", 4, 4, 4, 4), ("bf16", 2, 4, 2, 4), ("int8", 1, 4, 4, 4), ("int8_all", 1, 1, 4, 4)],
)
def test_bytes_follow_the_precision(precision, segment, head, segment_map, head_map):
    memory = Memory.of(WORK, precision, batch_size=1)
    assert memory.segment_weights.tolist() == [10 * segment, 20 * segment, 5 * segment]
    assert memory.head_weights.tolist() == [3 * head, 4 * head]
    assert memory.segment_maps[0] == 100 * segment_map and memory.head_maps[0] == 120 * head_map


def test_vgg19_in_bytes():
    """20,040,522 parameters (14 of its convolutions dominate) in four bytes, or one."""
    settings = NetworkSettings(backbone="vgg19", head=HeadSettings(kind="linear"))
    work = count_work(build_network(settings, classes=10, image_size=32, channels=3))
    sizes = {name: Memory.of(work, name, 1).segment_weights.sum() for name in ("fp32", "int8")}
    assert sizes == {"fp32": 4 * 20_040_522, "int8": 20_040_522}
