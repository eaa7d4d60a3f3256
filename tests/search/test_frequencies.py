"""Points under frequency rules: levels, slack and the common period."""

import numpy as np
import pytest
from support.levelled_networks import LEVELS, ONE, XEON, level, points, small_vgg, split, traced

from study import Classic, Hierarchical, Placed, Predictive, Static, UserError, replay
from study.costs.flops import count_work
from study.costs.model.devices import load_device
from study.costs.model.dvfs import simulate, smallest_slack
from study.networks.multi_exit import MultiExitNetwork
from study.search import cost_source as pricing
from study.search.operating_point import OperatingPoint
from study.search.traced_network import Frequencies, TracedNetwork


@pytest.fixture(scope="module")
def network() -> MultiExitNetwork:
    return small_vgg()


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
    ready = [one.frequencies for one in pricing.with_frequencies(asked, load_device(XEON), plain)]
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
    for one in pricing.with_frequencies(asked, load_device(XEON), plain):
        expected = load_device(XEON).level_costs(work, precision=one.precision, batch_size=16)
        found = one.frequencies.levels
        assert [costs.to_json() for costs in found.costs] == [costs.to_json() for costs in expected.costs]


@pytest.mark.parametrize("kind", ["static", "classic", "hierarchical", "placed", "predictive"])
def test_with_the_automatic_slack_every_policy_keeps_its_deadline(network, kind):
    asked = points(f"costs: {XEON}, dvfs: deadline, policy: {kind}")
    work = count_work(network)
    exits = work_exits(work)
    (ready,) = pricing.with_frequencies(
        asked, load_device(XEON), [TracedNetwork(ONE, level(1, 1), split(1), split(2), work=work)]
    )
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
    levels = load_device(XEON).level_costs(works[0], precision="fp32", batch_size=1)
    every = [Predictive(1.0, start, jump) for start in (3, 5) for jump in range(1, 9)]
    easiest = min(smallest_slack(levels, policy, work_exits(works[0])) for policy in every)
    assert easiest > 0
    with pytest.raises(UserError, match="dvfs_slack: with 0 no policy of this search keeps its deadline; the least"):
        pricing.check_slack(points(f"{text}, dvfs_slack: 0"), load_device(XEON), works)
    pricing.check_slack(points(f"{text}, dvfs_slack: {easiest * 1.01}"), load_device(XEON), works)
    pricing.check_slack(points(f"costs: {XEON}, dvfs: paper, dvfs_slack: 0"), load_device(XEON), works)
    pricing.check_slack(points(text), load_device(XEON), works)


def test_a_slack_that_is_given_is_kept(network):
    asked = points(f"costs: {XEON}, dvfs: deadline, dvfs_slack: 0.75")
    plain = [TracedNetwork(ONE, level(1, 1), split(1), split(2), work=count_work(network))]
    assert pricing.with_frequencies(asked, load_device(XEON), plain)[0].frequencies.slack == 0.75


def test_without_rules_nothing_is_simulated(network):
    plain = [traced(frequencies=None)]
    assert pricing.with_frequencies(points(f"costs: {XEON}"), load_device(XEON), plain) == plain
