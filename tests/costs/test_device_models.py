"""Modelled devices: prices, times and powers by hand, what a table must say, and what the costs can be used for."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from study import Trace, UserError, exact_front
from study.costs.flops import NetworkWork, Work
from study.costs.model.devices import (
    LevelDevice,
    OperationDevice,
    device_names,
    load_device,
    modelled_costs,
    parse_table,
)
from study.networks.multi_exit import build_network
from study.networks.precisions import BF16, FP32, INT8
from study.networks.settings import HeadSettings, NetworkSettings

PJ = 1e-12
MULTIPLY, ADD = 3.7 * PJ, 0.9 * PJ  # Horowitz 2014, 32-bit floating point
CACHE_BYTE, DRAM_BYTE = 100 * PJ / 8, 1300 * PJ / 8  # 64 bits: 100 pJ and 1.3 nJ
BUNDLED = ["horowitz-2014-45nm", "intel-xeon-platinum-8280", "jetson-tx2", "nvidia-a100-sxm4-40gb"]


def network(width=0.125):
    settings = NetworkSettings(backbone="vgg11", width=width, head=HeadSettings(codewords=8))
    return build_network(settings, classes=10, image_size=32, channels=3)


@pytest.fixture(scope="module")
def horowitz() -> OperationDevice:
    device = load_device("horowitz-2014-45nm")
    assert isinstance(device, OperationDevice)
    return device


@pytest.fixture(scope="module")
def jetson() -> LevelDevice:
    device = load_device("jetson-tx2")
    assert isinstance(device, LevelDevice)
    return device


PART = Work(flops=2000.0, weight_elements=50.0, activation_elements=300.0)
"""1,000 multiply-accumulates."""
TWO_PARTS = NetworkWork(
    segments=(PART, Work(flops=400.0, weight_elements=20.0, activation_elements=30.0)),
    heads=(Work(flops=600.0, weight_elements=10.0, activation_elements=100.0),),
    engine_step=Work(flops=20.0, weight_elements=0.0, activation_elements=20.0),
)


# --- prices of operations --------------------------------------------------------------------------------------------


def test_one_part_by_hand(horowitz):
    """50 weights of 4 bytes once a batch, 300 activations of 4 bytes."""
    fixed = 1000 * (MULTIPLY + ADD) + 300 * 4 * CACHE_BYTE
    assert horowitz.joules(PART, FP32, batch_size=1) == pytest.approx(fixed + 50 * 4 * DRAM_BYTE)
    assert horowitz.joules(PART, FP32, batch_size=10) == pytest.approx(fixed + 50 * 4 * DRAM_BYTE / 10)


def test_one_part_in_short_formats_by_hand(horowitz):
    """bf16 halves both bytes; int8 has weights of one byte, but maps between parts stay in fp32."""
    bf16 = 1000 * (1.1 + 0.9) * PJ + 300 * 2 * CACHE_BYTE + 50 * 2 * DRAM_BYTE
    int8 = 1000 * (0.2 + 0.1) * PJ + 300 * 4 * CACHE_BYTE + 50 * 1 * DRAM_BYTE
    assert horowitz.joules(PART, BF16, batch_size=1) == pytest.approx(bf16)
    assert horowitz.joules(PART, INT8, batch_size=1) == pytest.approx(int8)


@pytest.mark.parametrize(
    ("precision", "backbone", "heads"),
    [("fp32", FP32, FP32), ("bf16", BF16, FP32), ("int8", INT8, FP32), ("int8_all", INT8, INT8)],
)
def test_a_precision_prices_backbone_and_heads_in_their_own_formats(horowitz, precision, backbone, heads):
    costs = horowitz.costs(TWO_PARTS, precision=precision, batch_size=2)
    assert costs.segment_energy.tolist() == [horowitz.joules(p, backbone, batch_size=2) for p in TWO_PARTS.segments]
    assert costs.head_energy.tolist() == [horowitz.joules(p, heads, batch_size=2) for p in TWO_PARTS.heads]
    # The engine computes in fp32 whatever the network does: 20 additions, 20 elements of 4 bytes.
    assert costs.engine_step_energy == pytest.approx(20 * ADD + 20 * 4 * CACHE_BYTE)
    assert costs.segment_bitops.tolist() == [1000 * backbone.bits**2, 200 * backbone.bits**2]
    assert costs.head_bitops.tolist() == [300 * heads.bits**2]
    assert costs.engine_step_bitops == 20 * 32
    assert (costs.segment_flops.tolist(), costs.head_flops.tolist()) == ([2000.0, 400.0], [600.0])


@pytest.mark.parametrize("batch_size", [1, 128])
def test_a_convolution_segment_by_hand(batch_size):
    """VGG-11's first segment at full width: 3x3 convolution from 3 to 64 channels at 32 pixels, with batch norm."""
    costs = modelled_costs(network(width=1.0), batch_size=batch_size)
    operations = 27 * 64 * 32 * 32 * (MULTIPLY + ADD)
    activations = (3 + 64) * 32 * 32 * 4 * CACHE_BYTE
    weights = (27 * 64 + 64 + 4 * 64) * 4 * DRAM_BYTE / batch_size
    assert costs.segment_energy[0] == pytest.approx(operations + activations + weights, rel=2e-4)


def test_every_part_costs_something_and_the_label_says_modelled():
    costs = modelled_costs(network(), batch_size=4)
    assert (costs.segment_energy > 0).all()  # max-pools too: they move data
    assert (costs.head_energy > 0).all()
    assert costs.engine_step_energy > 0
    assert (costs.energy_source, costs.device, costs.batch_size) == (
        "modelled:horowitz-2014-45nm",
        "horowitz-2014-45nm",
        4,
    )
    assert costs.segment_flops.shape == costs.segment_energy.shape == (costs.exit_count + 1,)
    assert costs.segment_seconds is None and costs.seconds_source is None  # operations have no time


def test_a_batch_shares_weights_and_nothing_else():
    one, many = modelled_costs(network()), modelled_costs(network(), batch_size=128)
    moved = one.segment_energy - many.segment_energy
    # VGG-11 has a pool without weights behind exits 1, 3, 6 and 9.
    assert (moved > 0).tolist() == [exit not in (2, 4, 7, 10) for exit in range(1, 14)]


# --- levels ----------------------------------------------------------------------------------------------------------


def simple_levels(**changes):
    """Two levels; every number is round."""

    def quantity(value):
        return {"value": value, "source": "assumption: round"}

    return {
        "kind": "levels",
        "name": "simple",
        "device": "a simple device",
        "idle_watts": quantity(1.0),
        "switch_microseconds": quantity(50.0),
        "memory_gigabytes_per_second": quantity(1.0),
        "launch_microseconds": quantity(3.0),
        "formats": {"fp32": {"operations_per_cycle": quantity(4.0), "utilisation": quantity(0.5)}},
        "levels": {
            "megahertz": {"values": [100.0, 200.0], "source": "assumption: round"},
            "watts": {"values": [2.0, 6.0], "source": "assumption: round"},
        },
        **changes,
    }


def test_time_and_energy_by_hand():
    """2,000 operations at 200 MHz x 4 x 0.5: 5 us. 50 weights and 300 activations of 4 bytes at 1 GB/s: 1.4 us."""
    device = parse_table(simple_levels(), "simple")
    levels = device.level_costs(TWO_PARTS, precision="fp32", batch_size=1)
    slow, fast = levels.costs
    # The second segment moves 200 bytes in 0.2 us, and computes 400 operations in 1 us or 2 us.
    assert fast.segment_seconds == pytest.approx([5e-6 + 3e-6, 1e-6 + 3e-6])
    assert slow.segment_seconds == pytest.approx([10e-6 + 3e-6, 2e-6 + 3e-6])
    assert fast.head_seconds == pytest.approx([1.5e-6 + 3e-6])
    assert fast.engine_step_seconds == pytest.approx(0.08e-6)  # 20 elements of 4 bytes take longer than 20 adds
    assert fast.segment_energy == pytest.approx(6.0 * fast.segment_seconds)
    assert slow.head_energy == pytest.approx(2.0 * slow.head_seconds)
    assert fast.engine_step_energy == pytest.approx(6.0 * fast.engine_step_seconds)
    assert (levels.megahertz.tolist(), levels.idle_watts) == ([100.0, 200.0], 1.0)
    assert levels.switch_seconds == pytest.approx(50e-6)
    assert levels.busy_watts == pytest.approx([2.0, 6.0])
    assert fast.energy_source == fast.seconds_source == "modelled:simple" and fast.device == "simple"


def test_a_batch_shares_weights_and_launch():
    """10 images: 20,000 operations in 50 us, 200 + 12,000 bytes in 12.2 us, one launch; a tenth of it each."""
    device = parse_table(simple_levels(), "simple")
    seconds = device.seconds(PART, FP32, level=1, batch_size=10)
    assert seconds == pytest.approx((50e-6 + 3e-6) / 10)
    moving = Work(flops=20.0, weight_elements=50.0, activation_elements=300.0)
    assert device.seconds(moving, FP32, level=1, batch_size=10) == pytest.approx((12.2e-6 + 3e-6) / 10)


def test_memory_and_launch_do_not_scale_with_frequency():
    device = parse_table(simple_levels(), "simple")
    moving = Work(flops=0.0, weight_elements=50.0, activation_elements=300.0)
    assert device.seconds(moving, FP32, level=0, batch_size=1) == device.seconds(moving, FP32, level=1, batch_size=1)


def test_power_from_volts_by_hand():
    """0.5 W + 10 nF x V^2 x f: 0.64 V^2 at 100 MHz, 1.21 V^2 at 200 MHz."""
    levels = simple_levels()["levels"]
    table = simple_levels(
        levels={"megahertz": levels["megahertz"], "volts": {"values": [0.8, 1.1], "source": "assumption: round"}},
        static_watts={"value": 0.5, "source": "assumption: round"},
        effective_capacitance_nanofarad={"value": 10.0, "source": "assumption: round"},
    )
    assert parse_table(table, "simple").busy_watts == pytest.approx([0.5 + 0.64, 0.5 + 2.42])


def test_costs_are_those_of_the_highest_level(jetson):
    costs = jetson.costs(TWO_PARTS, precision="fp32", batch_size=1)
    at_top = jetson.level_costs(TWO_PARTS, precision="fp32", batch_size=1).costs[-1]
    assert costs.to_json() == at_top.to_json()


# --- bundled tables --------------------------------------------------------------------------------------------------


def test_the_bundled_devices():
    assert device_names() == BUNDLED


def sources(value):
    """Every source text of a table."""
    if isinstance(value, dict):
        return [text for key, child in value.items() for text in ([child] if key == "source" else sources(child))]
    return []


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_numbers_say_whether_they_are_published_or_assumed(name):
    device = load_device(name)
    texts = sources(device.model_dump(exclude_none=True))
    assert len(texts) >= 6
    assert all(text.startswith(("published: ", "assumption: ")) for text in texts)
    assert device.name == name


def test_jetson_tx2_stays_within_the_power_modes_of_its_module(jetson):
    """7.5 W with the GPU at 854 MHz; 15 W with the GPU at 1,122 MHz and faster CPUs."""
    levels = jetson.megahertz.tolist()
    assert (len(levels), levels[0], levels[-1]) == (13, 114.75, 1300.5)
    assert jetson.busy_watts[levels.index(854.25)] == pytest.approx(7.5, rel=1e-3)
    assert 7.5 < jetson.busy_watts[levels.index(1122.0)] < 15


@pytest.mark.parametrize(("name", "watts"), [("nvidia-a100-sxm4-40gb", 400), ("intel-xeon-platinum-8280", 205)])
def test_the_highest_level_draws_the_power_limit(name, watts):
    assert load_device(name).busy_watts[-1] == pytest.approx(watts, rel=1e-3)


def test_vgg19_on_a_jetson_takes_as_long_as_its_peak_allows(jetson):
    """0.796 GFLOPs at 512 x 1.3005 GHz x 0.5 need 2.39 ms; launches and late, memory-bound segments come on top."""
    big = build_network(NetworkSettings(backbone="vgg19"), classes=10, image_size=32, channels=3)
    seconds = jetson.costs(big, precision="fp32", batch_size=1).classic("seconds")
    assert 2.39e-3 < seconds < 2 * 2.39e-3


@pytest.mark.parametrize(
    ("device", "precision", "said"),
    [
        ("jetson-tx2", "int8", "device jetson-tx2 has no int8"),
        ("jetson-tx2", "int8_all", "device jetson-tx2 has no int8"),
        ("jetson-tx2", "bf16", "device jetson-tx2 has no bf16"),
        ("intel-xeon-platinum-8280", "bf16", "device intel-xeon-platinum-8280 has no bf16"),
        ("horowitz-2014-45nm", "fp8", "precision 'fp8' is unknown"),
    ],
)
def test_a_precision_that_a_device_lacks(device, precision, said):
    with pytest.raises(UserError, match=said) as caught:
        load_device(device).costs(TWO_PARTS, precision=precision, batch_size=1)
    assert "\n" not in str(caught.value)


def test_an_empty_batch_is_refused(jetson):
    with pytest.raises(UserError, match="batch_size is 0"):
        jetson.costs(TWO_PARTS, precision="fp32", batch_size=0)


# --- tables of one's own ---------------------------------------------------------------------------------------------


def test_a_table_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(simple_levels()), "utf-8")
    costs = modelled_costs(network(), device=str(path))
    assert costs.seconds_source == "modelled:simple" and costs.classic("seconds") > 0


def changed(path, value):
    """The simple table with one key replaced, or removed by None."""
    table = simple_levels()
    *parents, last = path.split(".")
    section = table
    for parent in parents:
        section = section[parent]
    if value is None:
        del section[last]
    else:
        section[last] = value
    return table


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("kind", "lookup", "kind: expected one of operations, levels"),
        ("colour", "red", "colour: unknown key"),
        ("idle_watts", None, "idle_watts: this key is required"),
        ("idle_watts.source", None, "idle_watts.source: this key is required"),
        ("idle_watts.source", "", "idle_watts.source"),
        ("idle_watts.value", 0, "idle_watts.value"),
        ("idle_watts.value", -1.0, "idle_watts.value"),
        ("idle_watts.value", float("inf"), "idle_watts.value"),
        ("idle_watts.value", float("nan"), "idle_watts.value"),
        ("idle_watts.value", "1.0", "idle_watts.value"),
        ("idle_watts.value", True, "idle_watts.value"),
        ("switch_microseconds.value", -1.0, "switch_microseconds.value"),
        ("formats.fp32.utilisation.value", 1.5, "formats.fp32.utilisation.value"),
        ("formats.fp32", None, "fp32 is missing"),
        ("formats.fp8", {}, "formats.fp8"),
        ("levels.megahertz.values", [200.0, 100.0], "megahertz must rise"),
        ("levels.megahertz.values", [100.0, 100.0], "megahertz must rise"),
        ("levels.megahertz.values", [], "levels.megahertz.values"),
        ("levels.megahertz.values", [100.0], "1 values of megahertz"),
        ("levels.watts.values", [6.0, 2.0], "must not fall"),
        ("levels.watts", None, "either watts or volts"),
        ("levels.volts", {"values": [0.8, 0.9], "source": "twice"}, "either watts or volts"),
        ("static_watts", {"value": 1.0, "source": "without volts"}, "static_watts and effective_capacitance_nanofarad"),
        ("name", "../elsewhere", "name"),
        ("name", "Simple", "name"),
        ("name", "a" * 65, "name"),
        ("name", "simple\n", "name"),
        ("name", "jetson-tx2", "name: jetson-tx2 is a bundled device"),
    ],
)
def test_mistakes_are_told_in_one_line_with_file_and_key(tmp_path, path, value, said):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(changed(path, value)), "utf-8")
    with pytest.raises(UserError) as caught:
        load_device(str(file))
    message = str(caught.value)
    assert message.startswith(str(file)) and said in message and "\n" not in message


@pytest.mark.parametrize(
    "text",
    ["", "- 1\n", "kind: [", "kind: !!python/object:os.system {}", "when: 2024-13-45", "[" * 5000, "kind: *there"],
)
def test_what_is_no_table_is_told_in_one_line(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(UserError) as caught:
        load_device(str(file))
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


def test_unreadable_files(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge.yaml").write_bytes(b"#" * 1_000_001)
    for name, said in (("binary", "UTF-8"), ("huge", "too many")):
        with pytest.raises(UserError, match=said):
            load_device(str(tmp_path / f"{name}.yaml"))


@pytest.mark.parametrize("name", ["jetson-tx3", "../devices/jetson-tx2", ""])
def test_an_unknown_device_names_the_known_ones(name):
    with pytest.raises(UserError, match="jetson-tx2, nvidia-a100-sxm4-40gb"):
        load_device(name)


def test_a_copy_of_a_bundled_table_is_that_device(tmp_path):
    bundled = Path(__file__).parents[2] / "study" / "costs" / "devices" / "jetson-tx2.yaml"
    copy = tmp_path / "copy.yaml"
    copy.write_bytes(bundled.read_bytes())
    assert load_device(str(copy)) == load_device("jetson-tx2")


# --- use -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["horowitz-2014-45nm", "jetson-tx2"])
def test_modelled_energy_is_an_objective(device):
    costs = modelled_costs(network(), device=device)
    random = np.random.default_rng(0)
    exits = costs.exit_count
    trace = Trace(
        logits=random.normal(size=(20, exits + 1, 10)),
        labels=random.integers(0, 10, 20),
        thresholds=np.ones(exits),
    )
    front = exact_front(trace, costs, objectives=("accuracy", "energy"))
    assert (front["energy"] > 0).all()
    # With every head and K_max engine steps at each exit, no walk costs more.
    most = costs.classic("energy") + costs.head_energy.sum() + exits * 8 * costs.engine_step_energy
    assert front["energy"].max() <= most
