"""Modelled energy: prices by hand, its label, and what it can be used for."""

import numpy as np
import pytest

from study import Trace, exact_front
from study.costs.energy import HOROWITZ, modelled_costs, modelled_joules
from study.costs.flops import Work
from study.networks import HeadSettings, NetworkSettings, build_network

PJ = 1e-12
MULTIPLY, ADD = 3.7 * PJ, 0.9 * PJ  # Horowitz 2014, 32-bit floating point
CACHE_BYTE, DRAM_BYTE = 100 * PJ / 8, 1300 * PJ / 8  # 64 bits: 100 pJ and 1.3 nJ


def network(width=0.125):
    settings = NetworkSettings(backbone="vgg11", width=width, head=HeadSettings(codewords=8))
    return build_network(settings, classes=10, image_size=32, channels=3)


def test_one_part_by_hand():
    """1,000 multiply-accumulates, 50 weights, 300 activations, 4 bytes each."""
    work = Work(flops=2000.0, weight_elements=50.0, activation_elements=300.0)
    fixed = 1000 * (MULTIPLY + ADD) + 300 * 4 * CACHE_BYTE
    assert modelled_joules(work, HOROWITZ["fp32"], batch_size=1) == pytest.approx(fixed + 50 * 4 * DRAM_BYTE)
    assert modelled_joules(work, HOROWITZ["fp32"], batch_size=10) == pytest.approx(fixed + 50 * 4 * DRAM_BYTE / 10)


@pytest.mark.parametrize("batch_size", [1, 128])
def test_a_convolution_segment_by_hand(batch_size):
    """VGG-11's first segment at full width: 3x3 convolution from 3 to 64 channels at 32 pixels, with batch norm."""
    costs = modelled_costs(network(width=1.0), batch_size=batch_size)
    operations = 27 * 64 * 32 * 32 * (MULTIPLY + ADD)
    activations = (3 + 64) * 32 * 32 * 4 * CACHE_BYTE
    weights = (27 * 64 + 64 + 4 * 64) * 4 * DRAM_BYTE / batch_size
    assert costs.segment_energy[0] == pytest.approx(operations + activations + weights, rel=2e-4)


def test_an_engine_step_by_hand():
    """20 additions; 10 logits read and 10 written; no weights."""
    assert modelled_costs(network()).engine_step_energy == pytest.approx(20 * ADD + 20 * 4 * CACHE_BYTE)


def test_every_part_costs_something_and_the_label_says_modelled():
    costs = modelled_costs(network(), batch_size=4)
    assert (costs.segment_energy > 0).all()  # max-pools too: they move data
    assert (costs.head_energy > 0).all()
    assert costs.engine_step_energy > 0
    assert costs.energy_source.startswith("modelled:")
    assert costs.segment_flops.shape == costs.segment_energy.shape == (costs.exit_count + 1,)
    assert costs.segment_seconds is None  # never modelled


def test_batch_sizes_differ_in_their_label():
    """A front never mixes them."""
    one, many = modelled_costs(network()), modelled_costs(network(), batch_size=128)
    assert one.energy_source != many.energy_source
    moved = one.segment_energy - many.segment_energy
    # Only weights are shared by a batch; VGG-11 has a pool without weights behind exits 1, 3, 6 and 9.
    assert (moved > 0).tolist() == [exit not in (2, 4, 7, 10) for exit in range(1, 14)]


def test_modelled_energy_is_an_objective():
    costs = modelled_costs(network())
    random = np.random.default_rng(0)
    exits = costs.exit_count
    trace = Trace(
        logits=random.normal(size=(20, exits + 1, 10)),
        labels=random.integers(0, 10, 20),
        thresholds=np.ones(exits),
    )
    front = exact_front(trace, costs, objectives=("accuracy", "energy"))
    assert (front["energy"] > 0).all()
    # With every head and engine step, a walk costs little more than the whole network.
    assert front["energy"].max() < 2 * costs.classic("energy") + costs.head_energy.sum()
