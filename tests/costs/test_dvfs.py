"""Frequency scaling: each rule by hand, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from study import Classic, Costs, Hierarchical, Placed, Predictive, Static, UserError, Walk
from study.costs.flops import NetworkWork, Work
from study.costs.model.devices import load_device
from study.costs.model.dvfs import RULES, LevelCosts, nearest_level, simulate, smallest_slack

E = 4
MEGAHERTZ, WATTS = (100.0, 200.0, 300.0, 400.0), (1.0, 3.0, 6.0, 10.0)


def uniform_costs(scale, watts):
    """At f_max: 1 s each segment, 0.5 s each head, 0.1 s each engine step."""
    seconds = {"segment": np.full(E + 1, 1.0), "head": np.full(E, 0.5), "engine_step": 0.1}
    fields = {f"{part}_seconds": value * scale for part, value in seconds.items()}
    fields |= {f"{part}_energy": value * scale * watts for part, value in seconds.items()}
    return Costs(
        segment_flops=np.ones(E + 1),
        head_flops=np.ones(E),
        energy_source="modelled:x",
        seconds_source="modelled:x",
        **fields,
    )


LEVELS = LevelCosts(
    megahertz=MEGAHERTZ,
    costs=tuple(uniform_costs(400 / f, watts) for f, watts in zip(MEGAHERTZ, WATTS, strict=True)),
    idle_watts=0.5,
    switch_seconds=0.25,
)


def one_walk(tried, exit, steps):
    """A walk of one sample."""
    return Walk(
        np.array([exit]), np.zeros(1, dtype=np.int64), np.isin(np.arange(1, E + 1), tried)[None], np.array([steps])
    )


PREDICTIVE = Predictive(1.0, start_layer=1, max_jump=2)
JUMPING = one_walk([1, 3], 3, 2)
"""Fails at exit 1, jumps by 2 (0.2 s of engine), stops at exit 3."""


def result(walk, rule, policy, slack, period=20.0):
    simulated = simulate(walk, LEVELS, rule=rule, policy=policy, slack=slack, period=period)
    return simulated.seconds[0], simulated.joules[0], simulated.switches[0]


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_race_to_idle_by_hand():
    """3 segments, 2 heads, 2 steps: 4.2 s at 10 W; then idle."""
    assert result(JUMPING, "race_to_idle", PREDICTIVE, 1.0) == pytest.approx((4.2, 42 + 0.5 * (20 - 4.2), 0))


def test_the_papers_rule_by_hand():
    """To exit 1 in 1.7 s at f_max. Then 400 MHz x 2 / 3 = 267, so 300 MHz: 2.5 s x 4/3. A switch: 0.25 s at 10 W."""
    seconds = 1.7 + 0.25 + 10 / 3
    joules = 17 + 2.5 + 6 * 10 / 3 + 2.5 + 0.5 * (20 - seconds - 0.25)
    assert result(JUMPING, "paper", PREDICTIVE, 1.0) == pytest.approx((seconds, joules, 2))


def test_the_deadline_by_hand():
    """Worst case at 200 MHz: 1.7 + 0.25 + (2 + 0.5 + 0.2) x 2, then 0.25 back and 2.5 s to the end: 10.1 s."""
    seconds = 1.7 + 0.25 + 5.0
    joules = 17 + 2.5 + 3 * 5.0 + 2.5 + 0.5 * (20 - seconds - 0.25)
    assert result(JUMPING, "deadline", PREDICTIVE, 1.02) == pytest.approx((seconds, joules, 2))
    # With a deadline of 10 s that is too long, and 300 MHz is the lowest: as the paper's rule, by chance.
    assert result(JUMPING, "deadline", PREDICTIVE, 1.0) == pytest.approx(result(JUMPING, "paper", PREDICTIVE, 1.0))


def test_the_smallest_slack_by_hand():
    """5 segments, 4 heads and 2 steps behind each of 3 exits take 7.6 s, the classic network 5 s."""
    assert smallest_slack(LEVELS, PREDICTIVE, E) == pytest.approx(0.52)
    assert smallest_slack(LEVELS, replace(PREDICTIVE, overshoot="classifier"), E) == pytest.approx(0.52)
    assert smallest_slack(LEVELS, replace(PREDICTIVE, start_layer=3), E) == pytest.approx((5 + 1 + 0.2) / 5 - 1)
    assert smallest_slack(LEVELS, Hierarchical(1.0, 2), E) == pytest.approx(0.3)
    assert smallest_slack(LEVELS, Placed(1.0, [2, 4]), E) == pytest.approx(0.2)
    assert smallest_slack(LEVELS, Static(4), E) == 0  # 4.5 s
    assert smallest_slack(LEVELS, Classic(), E) == 0


@pytest.mark.parametrize(
    ("policy", "walk", "slack", "seconds"),
    [
        (Static(2), one_walk([2], 2, 0), 0.0, 0.25 + 2.5 * 4 / 3),  # 200 MHz would take 5.25 s
        (Static(2), one_walk([2], 2, 0), 0.05, 0.25 + 2.5 * 2),
        (Classic(), one_walk([], 5, 0), 0.0, 5.0),
        (Classic(), one_walk([], 5, 0), 1.05, 0.25 + 5.0 * 2),
    ],
)
def test_a_walk_whose_end_is_known_is_one_leg(policy, walk, slack, seconds):
    assert result(walk, "deadline", policy, slack)[0] == pytest.approx(seconds)
    assert result(walk, "paper", policy, slack)[0] == result(walk, "race_to_idle", policy, slack)[0]


@pytest.mark.parametrize("policy", [Hierarchical(1.0, 1), Placed(1.0, [1, 2])])
@pytest.mark.parametrize("rule", RULES)
def test_policies_that_predict_nothing_stay_at_full_speed(policy, rule):
    walk = one_walk([1, 2], 2, 0)
    assert result(walk, rule, policy, 1.0) == pytest.approx((3.0, 30 + 0.5 * 17, 0))


@pytest.mark.parametrize(
    ("jump", "overshoot", "landing"), [(5, "last_exit", 4), (3, "last_exit", 4), (4, "classifier", 5)]
)
def test_a_jump_to_the_end_runs_at_full_speed_under_the_papers_rule(jump, overshoot, landing):
    """All that the engine ran is charged, though the way is shorter than the jump."""
    policy = Predictive(1.0, start_layer=1, max_jump=8, overshoot=overshoot)
    walk = one_walk([1, 4] if landing == 4 else [1], landing, jump)
    heads = 2 if landing == 4 else 1
    assert result(walk, "paper", policy, 2.0)[0] == pytest.approx(landing + 0.5 * heads + 0.1 * jump)


def test_idle_time_is_what_racing_pays_for():
    """A longer period costs both rules the same; a vanishing device would not show it."""
    for period in (10.0, 12.0):
        race, paper = (result(JUMPING, rule, PREDICTIVE, 1.0, period)[1] for rule in ("race_to_idle", "paper"))
        assert race - paper == pytest.approx(42 - 42 + 0.5 * (1.7 + 0.5 + 10 / 3 - 4.2))
    idle = [result(JUMPING, "paper", PREDICTIVE, 1.0, period)[1] for period in (10.0, 12.0)]
    assert idle[1] - idle[0] == pytest.approx(0.5 * 2)


def test_rounding_to_the_levels_of_a_jetson_tx2():
    """f_max x k / (E - l), at 1300.5 MHz."""
    work = Work(flops=1e6, weight_elements=1e3, activation_elements=1e3)
    network = NetworkWork((work, work), (work,), replace(work, flops=20.0))
    levels = load_device("jetson-tx2").level_costs(network, precision="fp32", batch_size=1)
    chosen = levels.megahertz[nearest_level(levels, [3, 5, 6, 1, 12], [12, 12, 12, 19, 12])]
    # 325.1, 541.9, 650.25, 68.4 and 1300.5 MHz are asked for.
    assert chosen.tolist() == [318.75, 522.75, 624.75, 114.75, 1300.5]


def test_ties_are_rounded_upwards():
    """350 MHz and 250 MHz lie between two levels; 400 x 5 / 8 is one of them."""
    assert nearest_level(LEVELS, [7, 5, 3], [8, 8, 8]).tolist() == [3, 2, 1]


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "policy", "walk", "slack", "period", "said"),
    [
        ("deadline", PREDICTIVE, JUMPING, 0.5, 20.0, "needs at least 0.52"),
        ("deadline", PREDICTIVE, JUMPING, 1.0, 9.9, "at least the deadline of 10"),
        ("race_to_idle", PREDICTIVE, JUMPING, 1.0, 9.9, "at least the deadline of 10"),
        ("paper", PREDICTIVE, JUMPING, -0.1, 20.0, "slack is -0.1"),
        ("paper", PREDICTIVE, JUMPING, float("nan"), 20.0, "slack is nan"),
        ("paper", PREDICTIVE, JUMPING, 1.0, float("inf"), "period is inf"),
        ("crawl", PREDICTIVE, JUMPING, 1.0, 20.0, "race_to_idle, paper, deadline"),
        ("paper", Static(2), JUMPING, 1.0, 20.0, "not one of Static"),
        ("paper", Hierarchical(1.0, 1), JUMPING, 1.0, 20.0, "not one of Hierarchical"),
        ("paper", Predictive(1.0, start_layer=9), JUMPING, 1.0, 20.0, "start_layer is 9"),
    ],
)
def test_what_cannot_be_simulated_is_told(rule, policy, walk, slack, period, said):
    with pytest.raises(UserError, match=said):
        simulate(walk, LEVELS, rule=rule, policy=policy, slack=slack, period=period)


def test_other_rules_run_below_the_smallest_slack():
    """They promise nothing; what they would have needed is recorded."""
    simulated = simulate(JUMPING, LEVELS, rule="paper", policy=PREDICTIVE, slack=0.0, period=20.0)
    assert simulated.smallest_slack == pytest.approx(0.52)
