"""Where costs come from, what is refused before work starts, and what points cost under frequency rules."""

import json

import numpy as np
import pytest
import torch

from search_spaces.spec import parse_space
from study import Classic, Costs, Hierarchical, Placed, Predictive, Static, UserError, replay
from study.checkpoints.description import WeightsId
from study.costs.flops import count_work
from study.costs.measure import bench
from study.costs.model.devices import load_device
from study.costs.model.dvfs import LevelCosts, simulate, smallest_slack
from study.networks.multi_exit import build_network
from study.networks.quantization import in_fp32
from study.networks.settings import HeadSettings, NetworkSettings
from study.progress import Reporter
from study.search import cost_source as pricing
from study.search.operating_point import OperatingPoint
from study.search.space import constraint_values
from study.search.traced_network import Frequencies, TracedNetwork, reference_network
from study.traces.trace import SplitLogits

ONE = WeightsId("one", "w")

XEON = "intel-xeon-platinum-8280"
CPU = torch.device("cpu")
QUIET = {"device_here": CPU, "reporter": Reporter(quiet=True)}


def points(text: str):
    return parse_space(f"name: x\noperating_points: {{{text}}}", "test").operating_points


@pytest.fixture(autouse=True)
def no_meter(monkeypatch):
    """Whatever counters the machine has that runs the tests."""
    monkeypatch.setattr(pricing, "find_meter", lambda device: None)


@pytest.fixture(scope="module")
def network():
    settings = NetworkSettings(backbone="vgg11", width=0.125, head=HeadSettings(kind="linear"))
    return build_network(settings, classes=4, image_size=32, channels=3).eval()


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
        ("costs: jetson-tx2", ["fp32", "int8"], "device jetson-tx2 has no int8, which quantization int8 needs"),
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
    costs = pricing.price(asked, work, "int8", lambda: pytest.fail("ran"), path, other_device=False, **QUIET)
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

    first = pricing.price(asked, work, "fp32", measure_profile, path, other_device=False, **QUIET)
    again = pricing.price(asked, work, "fp32", measure_profile, path, other_device=False, **QUIET)
    measure_profile()
    assert calls == [2] and first.to_json() == again.to_json()
    assert first.seconds_source == "measured" and first.batch_size == 2
    assert (np.asarray(first.segment_seconds) > 0).all()
    stored = json.loads(path.read_text())
    stored["costs"]["device"] = "another machine"
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match="another machine"):
        pricing.price(asked, work, "fp32", measure_profile, path, other_device=False, **QUIET)
    costs = pricing.price(asked, work, "fp32", measure_profile, path, other_device=True, **QUIET)
    assert costs.device == "another machine"


def pricing_settings():
    from study.costs.measure.profile import MeasureSettings

    return MeasureSettings(repeats=1, warm_up_seconds=0.001, timing_window_seconds=0.0005, settle_seconds=0)


def split(seed: int) -> SplitLogits:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 60)
    logits = rng.normal(size=(60, 6, 4)) + 0.3
    logits[np.arange(60), :, labels] += np.linspace(0.5, 3, 6)
    return SplitLogits(logits.astype(np.float32), labels)


def level(factor: float, watts: float) -> Costs:
    seconds = np.arange(1.0, 7.0) / factor
    return Costs(
        segment_flops=np.arange(1.0, 7.0),
        head_flops=np.full(5, 0.125),  # sums are exact in any order
        segment_seconds=seconds,
        head_seconds=np.full(5, 0.1 / factor),
        segment_energy=seconds * watts,
        head_energy=np.full(5, 0.1 / factor * watts),
        energy_source="modelled:test",
        seconds_source="modelled:test",
    )


LEVELS = LevelCosts(
    megahertz=[500, 1000], costs=(level(0.5, 3.0), level(1.0, 10.0)), idle_watts=1.0, switch_seconds=0.01
)


def traced(**changes) -> TracedNetwork:
    plan = Frequencies(levels=LEVELS, slack=0.5, period=40.0)
    parts = {"calibration": split(1), "validation": split(2), "frequencies": plan, **changes}
    return TracedNetwork(ONE, LEVELS.costs[-1], **parts)


@pytest.mark.parametrize("rule", ["race_to_idle", "paper", "deadline"])
@pytest.mark.parametrize("policy", [Predictive(1.1, 1, 4), Hierarchical(1.1, 2), Static(3), Classic()], ids=str)
def test_a_point_under_a_rule_is_the_simulation_of_its_walk(rule, policy):
    point = OperatingPoint(traced(), "mean_max", policy, dvfs=rule)
    metrics, walk = point.evaluate(), replay(point.network.trace("mean_max"), policy)
    simulated = simulate(walk, LEVELS, rule=rule, policy=policy, slack=0.5, period=40.0)
    assert metrics["energy_joules"] == simulated.joules.mean()
    assert metrics["latency_mean_seconds"] == simulated.seconds.mean()
    assert metrics["latency_p99_seconds"] == np.quantile(simulated.seconds, 0.99)
    assert metrics["dvfs_smallest_slack"] == smallest_slack(LEVELS, policy, 5)
    assert metrics["classic_energy_joules"] == 21 * 10 + (40 - 21) * 1
    assert metrics["flops"] == walk_flops(walk)


def walk_flops(walk) -> float:
    return float((np.arange(1.0, 7.0).cumsum()[walk.exit_index - 1] + walk.tried.sum(axis=1) * 0.125).mean())


def test_rules_that_have_nothing_to_go_by_are_racing():
    chosen = traced()

    def rules(policy) -> list[str]:
        return [OperatingPoint(chosen, "mean_max", policy, dvfs=r).dvfs for r in ("race_to_idle", "paper", "deadline")]

    assert rules(Hierarchical(1.0)) == ["race_to_idle"] * 3
    assert rules(Static(2)) == ["race_to_idle", "race_to_idle", "deadline"]
    assert rules(Predictive(1.0)) == ["race_to_idle", "paper", "deadline"]
    assert OperatingPoint(chosen, "mean_max", Hierarchical(1.0)).dvfs == "none"


def test_cuts_pay_for_the_whole_period():
    energies = traced().cut_energies
    busy = [1.1, 3.1, 6.1, 10.1, 15.1, 21.0]
    assert energies == pytest.approx([10 * seconds + (40 - seconds) for seconds in busy])
    without = traced(frequencies=None).cut_energies
    assert without == pytest.approx([10 * seconds for seconds in busy])


def test_a_slack_too_small_is_refused_with_the_smallest_one():
    tight = traced(frequencies=Frequencies(levels=LEVELS, slack=0.0, period=40.0))
    point = OperatingPoint(tight, "mean_max", Predictive(1.1, 1, 4), dvfs="deadline")
    smallest = smallest_slack(LEVELS, point.policy, 5)
    assert smallest > 0
    with pytest.raises(UserError, match=f"needs at least {smallest!r}"):
        point.evaluate()


def test_the_period_is_common_and_the_slack_suits_every_policy(network):
    asked = points(f"costs: {XEON}, dvfs: [race_to_idle, deadline], start_layer: [3, 5], max_jump: [4, 8]")
    work = count_work(network)
    plain = [TracedNetwork(ONE, level(1, 1), split(1), split(2), precision=p, work=work) for p in ("fp32", "int8")]
    ready = [one.frequencies for one in pricing.with_frequencies(asked, plain)]
    assert ready[0].period == ready[1].period
    deadlines = []
    for plan in ready:
        for overshoot in ("last_exit", "classifier"):
            for start in (3, 5):
                for jump in (4, 8):
                    policy = Predictive(1.0, start, jump, overshoot)
                    assert plan.slack >= smallest_slack(plan.levels, policy, work_exits(work))
        deadlines.append((1 + plan.slack) * plan.levels.costs[-1].classic("seconds") + plan.levels.switch_seconds)
    assert ready[0].period == max(deadlines)


def work_exits(work) -> int:
    return len(work.heads)


def test_levels_are_priced_at_the_network_s_precision_and_the_study_s_batch_size(network):
    asked = points(f"costs: {XEON}, dvfs: deadline, batch_size: 16")
    work = count_work(network)
    plain = [TracedNetwork(ONE, level(1, 1), split(1), split(2), precision=p, work=work) for p in ("fp32", "int8")]
    for one in pricing.with_frequencies(asked, plain):
        expected = load_device(XEON).level_costs(work, precision=one.precision, batch_size=16)
        found = one.frequencies.levels
        assert [costs.to_json() for costs in found.costs] == [costs.to_json() for costs in expected.costs]


@pytest.mark.parametrize("kind", ["static", "classic", "hierarchical", "placed", "predictive"])
def test_with_the_automatic_slack_every_policy_keeps_its_deadline(network, kind):
    asked = points(f"costs: {XEON}, dvfs: deadline, policy: {kind}")
    work = count_work(network)
    exits = work_exits(work)
    (ready,) = pricing.with_frequencies(asked, [TracedNetwork(ONE, level(1, 1), split(1), split(2), work=work)])
    policies = {
        "static": [Static(exit) for exit in range(1, exits + 1)],
        "classic": [Classic()],
        "hierarchical": [Hierarchical(1.0, start) for start in range(1, exits + 1)],
        "placed": [Placed(1.0, (1, 3)), Placed(1.0, tuple(range(1, exits + 1)))],
        "predictive": [Predictive(1.0, start, 8) for start in range(1, exits + 1)],
    }[kind]
    plan = ready.frequencies
    assert max(smallest_slack(plan.levels, policy, exits) for policy in policies) == plan.slack


def test_a_slack_that_no_policy_keeps_is_refused_before_training(network):
    works = [count_work(network)]
    text = f"costs: {XEON}, dvfs: [race_to_idle, deadline], policy: predictive, start_layer: [3, 5]"
    easiest = min(
        pricing._smallest_slacks(points(text), load_device(XEON).level_costs(works[0], precision="fp32", batch_size=1))
    )
    assert easiest > 0
    with pytest.raises(UserError, match="dvfs_slack: with 0 no policy of this search keeps its deadline; the least"):
        pricing.check_slack(points(f"{text}, dvfs_slack: 0"), works, ["fp32"])
    pricing.check_slack(points(f"{text}, dvfs_slack: {easiest * 1.01}"), works, ["fp32"])
    pricing.check_slack(points(f"costs: {XEON}, dvfs: paper, dvfs_slack: 0"), works, ["fp32"])
    pricing.check_slack(points(text), works, ["fp32"])


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
    names = [next(iter(search_groups(spec, [other]))) for other in others]
    assert len(set(names)) == len(names)
    assert next(iter(search_groups(spec, [traced()]))) == names[0]


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


def test_a_slack_that_is_given_is_kept(network):
    asked = points(f"costs: {XEON}, dvfs: deadline, dvfs_slack: 0.75")
    plain = [TracedNetwork(ONE, level(1, 1), split(1), split(2), work=count_work(network))]
    assert pricing.with_frequencies(asked, plain)[0].frequencies.slack == 0.75


def test_without_rules_nothing_is_simulated(network):
    plain = [traced(frequencies=None)]
    assert pricing.with_frequencies(points(f"costs: {XEON}"), plain) == plain


def test_constraints_tell_by_how_much_a_limit_is_exceeded():
    metrics = {"accuracy": 0.9, "energy_joules": 3.0, "memory_bytes": 50.0, "latency_p99_seconds": 0.2}
    limits = {"accuracy_drop": 0.02, "energy": 2.0, "memory": 100.0, "latency_p99": 0.2}
    assert constraint_values(metrics, limits, reference=0.95) == pytest.approx(
        {"accuracy_drop": 0.03, "energy": 0.5, "memory": -0.5, "latency_p99": 0.0}
    )


def test_a_drop_is_counted_from_the_best_classic_network_in_fp32():
    def right(seed: int) -> float:
        one = split(seed)
        return float((one.logits[:, -1].argmax(axis=1) == one.labels).mean())

    worst, middle, best = sorted({right(seed): seed for seed in range(3, 30)}.values(), key=right)[:3]
    assert right(worst) < right(middle) < right(best)
    pairs = ((worst, "fp32"), (middle, "fp32"), (best, "int8"))
    networks = [traced(validation=split(seed), precision=precision) for seed, precision in pairs]
    assert reference_network(networks).classic_accuracy == right(middle)
    assert reference_network(networks[2:]).classic_accuracy == right(best)


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
    for work, precision in ((count_work(wider), "fp32"), (count_work(network), "bf16")):
        with pytest.raises(UserError, match=r"one.json is a profile of another network, precision or batch size"):
            pricing.price(asked, work, precision, lambda: pytest.fail("ran"), path, other_device=False, **QUIET)


def test_profiles_of_several_devices_are_not_compared():
    from dataclasses import replace

    here = traced(frequencies=None)
    there = replace(here, costs=replace(here.costs, device="another"))
    pricing.check_one_source([here, here])
    with pytest.raises(UserError, match=r"several devices \(None, another\)"):
        pricing.check_one_source([here, there])


def test_a_drop_of_exactly_the_limit_is_kept():
    for right in range(1, 1000):
        metrics = {"accuracy": (right - 1) / 1000}
        assert constraint_values(metrics, {"accuracy_drop": 0.001}, reference=right / 1000) == {"accuracy_drop": 0.0}
        over = constraint_values(metrics, {"accuracy_drop": 0.0005}, reference=right / 1000)["accuracy_drop"]
        assert over == pytest.approx(0.0005)
