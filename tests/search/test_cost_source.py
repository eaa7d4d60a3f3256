"""Where costs come from, and what is refused before work starts."""

import json

import numpy as np
import pytest
import torch
from support.levelled_networks import LEVELS, XEON, level, points, small_vgg, traced

from search_spaces.spec import parse_space
from study import Classic, UserError
from study.checkpoints.description import WeightsId
from study.costs.flops import count_work
from study.costs.measure import bench
from study.costs.model.devices import load_device
from study.fronts.exact import check_comparable
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.quantization import in_fp32
from study.networks.settings import HeadSettings, NetworkSettings
from study.progress import Reporter
from study.search import cost_source as pricing
from study.search.operating_point import OperatingPoint
from study.search.traced_network import TracedNetwork
from study.traces.trace import SplitLogits


@pytest.fixture(scope="module")
def network() -> MultiExitNetwork:
    return small_vgg()


CPU = torch.device("cpu")


QUIET = {"device_here": CPU, "reporter": Reporter(quiet=True)}


def price(asked, work, precision, *arguments, **options):
    """The costs that a study takes for a network."""
    costs = pricing.cost_table(asked.costs).costs(work, precision=precision, batch_size=asked.batch_size)
    return pricing.price(asked, costs, precision, *arguments, **options)


@pytest.fixture(autouse=True)
def no_meter(monkeypatch):
    """Whatever counters the machine has that runs the tests."""
    monkeypatch.setattr(pricing, "find_meter", lambda device: None)


@pytest.mark.parametrize(
    ("text", "precisions", "message"),
    [
        ("costs: no-such-device", ["fp32"], "no-such-device: no such device table"),
        ("dvfs: [race_to_idle, turbo]", ["fp32"], "operating_points.dvfs: 'turbo' is unknown"),
        (f"costs: {XEON}, dvfs: [none, paper]", ["fp32"], "none leaves idle energy out"),
        ("dvfs: paper", ["fp32"], "horowitz-2014-45nm has no frequency levels"),
        ("costs: measured, dvfs: paper", ["fp32"], "measured has no frequency levels"),
        ("objectives: [accuracy, latency_p99]", ["fp32"], "latency_p99 needs seconds"),
        ("constraints: {latency_mean: 0.1}", ["fp32"], "latency_mean needs seconds"),
        ("costs: jetson-tx2", ["fp32", "int8"], "device jetson-tx2 has no int8, which precision int8 needs"),
        (f"costs: {XEON}", ["bf16"], f"device {XEON} has no bf16"),
    ],
)
def test_costs_that_cannot_be_are_refused_before_any_work(text, precisions, message):
    with pytest.raises(UserError, match=message) as error:
        pricing.check_costs(points(text), precisions, CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "objectives: [accuracy, flops]",
        "costs: measured, objectives: [accuracy, latency_mean]",
        f"costs: {XEON}, dvfs: [race_to_idle, paper, deadline], constraints: {{latency_p99: 1, memory: 1}}",
    ],
)
def test_costs_that_can_be_are_taken(text):
    pricing.check_costs(points(text), ["fp32", "int8"], CPU)


def test_a_device_table_prices_a_network_and_keeps_the_costs(network, tmp_path):
    work, path = count_work(network), tmp_path / "profiles" / "one.json"
    asked = points(f"costs: {XEON}, batch_size: 4")
    costs = price(asked, work, "int8", lambda: pytest.fail("ran"), path, **QUIET)
    expected = load_device(XEON).costs(work, precision="int8", batch_size=4)
    assert costs.to_json() == expected.to_json() == path.read_text()
    assert (costs.device, costs.batch_size, costs.energy_source) == (XEON, 4, f"modelled:{XEON}")


def test_measured_costs_are_measured_once(network, tmp_path, monkeypatch):
    work, path, calls = count_work(network), tmp_path / "one.json", []
    quick = bench.measure_profile

    def measure(*arguments, **options):
        calls.append(options["batch_size"])
        settings = pricing_settings()
        return quick(*arguments, **options, settings=settings)

    monkeypatch.setattr(bench, "measure_profile", measure)
    asked = points("costs: measured, batch_size: 2")

    def measure_profile() -> None:
        pricing.measure(asked, work, "fp32", in_fp32(network), path, device=CPU)

    first = price(asked, work, "fp32", measure_profile, path, **QUIET)
    again = price(asked, work, "fp32", measure_profile, path, **QUIET)
    measure_profile()
    assert calls == [2] and first.to_json() == again.to_json()
    assert first.seconds_source == "measured" and first.batch_size == 2
    assert (np.asarray(first.segment_seconds) > 0).all()
    stored = json.loads(path.read_text())
    stored["costs"]["device"] = "another machine"
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match="another machine"):
        price(asked, work, "fp32", measure_profile, path, **QUIET)
    costs = price(asked, work, "fp32", measure_profile, path, **{**QUIET, "device_here": None})
    assert costs.device == "another machine"


def pricing_settings():
    from study.costs.measure.profile import MeasureSettings

    return MeasureSettings(repeats=1, warm_up_seconds=0.001, timing_window_seconds=0.0005, settle_seconds=0)


def test_a_search_is_named_by_all_that_decides_its_points():
    from dataclasses import replace

    from study.run.run import search_groups

    spec = parse_space("name: x", "test")
    one = traced()
    plan = one.frequencies

    def with_levels(**changes) -> TracedNetwork:
        return replace(one, frequencies=replace(plan, levels=replace(LEVELS, **changes)))

    others = [
        one,
        replace(one, weights=WeightsId("other", "w")),
        replace(one, precision="bf16"),
        replace(one, costs=level(1.0, 11.0)),
        replace(one, frequencies=None),
        replace(one, frequencies=replace(plan, slack=0.6)),
        replace(one, frequencies=replace(plan, period=41.0)),
        with_levels(idle_watts=2.0),
        with_levels(switch_seconds=0.02),
        with_levels(costs=(level(0.5, 4.0), level(1.0, 10.0))),
        replace(one, validation=SplitLogits(one.validation.logits, one.validation.labels, "simulated")),
    ]
    names = [next(iter(search_groups(spec.operating_points, [other]))) for other in others]
    assert len(set(names)) == len(names)
    assert next(iter(search_groups(spec.operating_points, [traced()]))) == names[0]


def test_memory_is_that_of_the_batch_size_of_the_costs(network):
    from dataclasses import replace

    work = count_work(network)
    single = traced(work=work)
    many = replace(single, costs=replace(single.costs, batch_size=8))
    weights = single.memory.segment_weights.sum()
    assert many.memory.of_policy(Classic()) - weights == 8 * (single.memory.of_policy(Classic()) - weights)
    assert OperatingPoint(many, "mean_max", Classic()).evaluate()["memory_bytes"] == many.memory.of_policy(Classic())


def test_the_meter_of_this_device_measures(network, tmp_path, monkeypatch):
    asked_for, meter = [], object()
    monkeypatch.setattr(pricing, "find_meter", lambda device: meter)

    def measure(network, *, counted, batch_size, meter):
        asked_for.append(meter)
        raise UserError("far enough")

    monkeypatch.setattr(bench, "measure_profile", measure)
    with pytest.raises(UserError, match="far enough"):
        pricing.measure(
            points("costs: measured"),
            count_work(network),
            "fp32",
            in_fp32(network),
            tmp_path / "one.json",
            device=CPU,
        )
    assert asked_for == [meter]


def test_int8_that_is_only_simulated_is_not_measured(network, monkeypatch):
    monkeypatch.setattr(pricing, "int8_execution", lambda device: "simulated")
    asked = points("costs: measured")
    with pytest.raises(UserError, match="int8 is only simulated on this cpu"):
        pricing.check_costs(asked, ["fp32", "int8"], CPU)
    pricing.check_costs(asked, ["fp32", "bf16"], CPU)
    from dataclasses import replace

    work = count_work(network)
    pretended = replace(in_fp32(network), precision="int8", int8_execution="simulated")
    costs = load_device("horowitz-2014-45nm").costs(work, precision="int8", batch_size=1)
    with pytest.raises(UserError, match="simulated"):
        bench.measure_profile(pretended, counted=costs, batch_size=1, meter=None)


def test_a_counter_that_cannot_be_read_is_told_before_work_starts(monkeypatch):
    def unreadable(device):
        raise UserError("energy_uj is readable by root only")

    monkeypatch.setattr(pricing, "find_meter", unreadable)
    with pytest.raises(UserError, match="root only"):
        pricing.check_costs(points("costs: measured"), ["fp32"], CPU)
    pricing.check_costs(points(f"costs: {XEON}"), ["fp32"], CPU)


def test_a_stored_profile_of_another_network_is_refused(network, tmp_path, monkeypatch):
    path, asked = tmp_path / "one.json", points("costs: measured")
    quick = bench.measure_profile
    monkeypatch.setattr(bench, "measure_profile", lambda *a, **o: quick(*a, **o, settings=pricing_settings()))
    pricing.measure(asked, count_work(network), "fp32", in_fp32(network), path, device=CPU)
    settings = NetworkSettings(backbone="vgg11", width=0.25, head=HeadSettings(kind="linear"))
    wider = build_network(settings, classes=4, image_size=32, channels=3).eval()
    for work, precision, said in (
        (count_work(wider), "fp32", "of another network: its parts count other FLOPs"),
        (count_work(network), "bf16", "at fp32, not at bf16"),
    ):
        with pytest.raises(UserError, match=rf"one.json is a profile {said}"):
            price(asked, work, precision, lambda: pytest.fail("ran"), path, **QUIET)


def test_profiles_of_several_devices_are_not_compared():
    from dataclasses import replace

    here = traced(frequencies=None).costs
    there = replace(here, device="another")
    check_comparable([here, here])
    with pytest.raises(UserError, match=r"several devices \(None, another\)"):
        check_comparable([here, there])
