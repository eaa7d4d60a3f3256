"""Frequency scaling: each rule by hand, the deadline's promise, and a plain twin, one sample at a time."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.plain_twins import engine, stops
from support.random_traces import policies, traces

from study import Classic, Costs, Hierarchical, Placed, Predictive, Static, UserError, Walk, replay
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


@pytest.mark.parametrize(
    "changes",
    [
        {"megahertz": (100.0, 200.0, 300.0)},
        {"megahertz": (100.0, 300.0, 200.0, 400.0)},
        {"megahertz": (0.0, 200.0, 300.0, 400.0)},
        {"megahertz": (), "costs": ()},
        {"idle_watts": -1.0},
        {"switch_seconds": float("inf")},
        {"costs": (*LEVELS.costs[:3], uniform_costs(0.0, 1.0))},
        {"costs": (*LEVELS.costs[:3], replace(LEVELS.costs[3], segment_seconds=None, head_seconds=None))},
        {"costs": (*LEVELS.costs[:3], replace(LEVELS.costs[3], segment_energy=None, head_energy=None))},
        {"costs": (*LEVELS.costs[:3], Costs(segment_flops=[1, 1], head_flops=[1]))},
    ],
)
def test_levels_that_do_not_fit_are_refused(changes):
    with pytest.raises(UserError):
        replace(LEVELS, **changes)


# --- laws ------------------------------------------------------------------------------------------------------------


@st.composite
def level_costs(draw, exits):
    """Any costs in whole numbers, whose sums are exact; a faster level may even be slower or cheaper."""
    count = draw(st.integers(1, 4))
    price = st.integers(0, 9).map(float)

    def costs():
        heads = hnp.arrays(np.float64, exits, elements=price)
        segments = hnp.arrays(np.float64, exits + 1, elements=price)
        return Costs(
            segment_flops=np.ones(exits + 1),
            head_flops=np.ones(exits),
            segment_seconds=draw(segments.filter(lambda seconds: seconds.sum() > 0)),
            head_seconds=draw(heads),
            engine_step_seconds=draw(price),
            segment_energy=draw(segments),
            head_energy=draw(heads),
            engine_step_energy=draw(price),
            energy_source="modelled:drawn",
        )

    return LevelCosts(
        megahertz=np.array(sorted(draw(st.sets(st.integers(1, 20), min_size=count, max_size=count))), dtype=np.float64),
        costs=tuple(costs() for _ in range(count)),
        idle_watts=draw(price),
        switch_seconds=draw(price),
    )


@st.composite
def cases(draw):
    """A trace, a policy, level costs, a slack that is feasible, and a period."""
    trace = draw(traces())
    policy = draw(policies(trace))
    levels = draw(level_costs(trace.exit_count))
    slack = smallest_slack(levels, policy, trace.exit_count) + draw(st.integers(0, 20)) / 4
    period = (1 + slack) * levels.costs[-1].classic("seconds") + draw(st.integers(0, 9))
    return trace, policy, levels, slack, period


def next_exits(policy, exit, exits):
    """Where a sample may go from a failed exit (0: the input), as exits with the engine steps that lead there."""
    if exit == 0:
        return [(policy.first_exit(exits), 0)]
    if isinstance(policy, Placed):
        return [(min((chosen for chosen in policy.exits if chosen > exit), default=exits + 1), 0)]
    if isinstance(policy, Hierarchical) or exit == exits:
        return [(exit + 1, 0)]
    beyond = exits if policy.overshoot == "last_exit" else exits + 1
    return [(exit + k if exit + k <= exits else beyond, k) for k in range(1, policy.max_jump + 1)]


def leg_cost(costs, measure, start, end, steps):
    segments, heads, step = costs.parts(measure)
    head = heads[end - 1] if end <= len(heads) else 0.0
    return sum(segments[start:end]) + head + steps * step


def worst_walk(costs, policy, exit):
    """Longest time that is left behind a failed exit, over all jumps that the engine may predict."""
    exits = costs.exit_count
    if exit > exits or (isinstance(policy, Static) and exit == policy.exit):
        return 0.0
    worst = 0.0
    for landing in {landing for landing, _ in next_exits(policy, exit, exits)}:
        leg = leg_cost(costs, "seconds", exit, landing, policy.max_jump if landing < exits else 0)
        worst = max(worst, leg + worst_walk(costs, policy, landing))
    return worst


def plain_legs(sample, thetas, policy):
    """``(start, end, engine steps behind end, predicted jump or None)`` of each leg of one sample."""
    exits, legs, start, jump = len(thetas), [], 0, None
    end = policy.first_exit(exits)
    while end <= exits:
        if isinstance(policy, Static) or stops(sample, thetas, end, policy.beta):
            return [*legs, (start, end, 0, jump)]
        asked = isinstance(policy, Predictive) and end < exits
        predicted = engine(sample, thetas, end, policy.beta, policy.max_jump) if asked else 0
        legs.append((start, end, predicted, jump))
        (after,) = {landing for landing, k in next_exits(policy, end, exits) if k == predicted}
        start, end, jump = end, after, predicted if asked else None
    return [*legs, (start, end, 0, jump)]


def plain_level(rule, policy, levels, leg, level, elapsed, slack):
    start, end, _, jump = leg
    exits, top = levels.exit_count, len(levels.costs) - 1
    megahertz, fast = list(levels.megahertz), levels.costs[-1]
    if rule == "paper" and jump is not None:
        wanted = megahertz[top] * min(1, jump / max(1, exits - start))
        return min(range(top + 1), key=lambda level: (round(abs(megahertz[level] - wanted), 9), -level))
    known_end = isinstance(policy, Classic | Static) or (isinstance(policy, Predictive) and start == exits)
    if rule == "deadline" and (jump is not None or known_end):
        most = policy.max_jump if end < exits else 0
        for choice, costs in enumerate(levels.costs):
            needed = elapsed + (choice != level) * levels.switch_seconds + leg_cost(costs, "seconds", start, end, most)
            if end <= exits and not isinstance(policy, Static):
                needed += (choice != top) * levels.switch_seconds + worst_walk(fast, policy, end)
            if needed <= (1 + slack) * fast.classic("seconds") + 1e-9:
                return choice
    return top


def plain_simulation(sample, thetas, policy, levels, *, rule, slack, period):
    """Seconds until the answer and joules of the period, of one sample."""
    top = level = len(levels.costs) - 1
    watts = [costs.classic("energy") / costs.classic("seconds") for costs in levels.costs]
    seconds = joules = 0.0
    for leg in plain_legs(sample, thetas, policy):
        start, end, steps, _ = leg
        choice = plain_level(rule, policy, levels, leg, level, seconds, slack)
        if choice != level:
            seconds += levels.switch_seconds
            joules += levels.switch_seconds * watts[max(choice, level)]
        level = choice
        seconds += leg_cost(levels.costs[level], "seconds", start, end, steps)
        joules += leg_cost(levels.costs[level], "energy", start, end, steps)
    busy = seconds
    if level != top:
        busy += levels.switch_seconds
        joules += levels.switch_seconds * watts[top]
    return seconds, joules + levels.idle_watts * max(0.0, period - busy)


@given(cases(), st.sampled_from(RULES))
def test_it_equals_a_simulation_of_one_sample_at_a_time(case, rule):
    trace, policy, levels, slack, period = case
    simulated = simulate(replay(trace, policy), levels, rule=rule, policy=policy, slack=slack, period=period)
    twins = [
        plain_simulation(sample, trace.thresholds, policy, levels, rule=rule, slack=slack, period=period)
        for sample in trace.logits
    ]
    assert simulated.seconds == pytest.approx([seconds for seconds, _ in twins], rel=1e-9, abs=1e-9)
    assert simulated.joules == pytest.approx([joules for _, joules in twins], rel=1e-9, abs=1e-9)


@given(cases())
def test_the_deadline_holds_for_every_sample(case):
    trace, policy, levels, slack, period = case
    simulated = simulate(replay(trace, policy), levels, rule="deadline", policy=policy, slack=slack, period=period)
    assert (simulated.seconds <= (1 + slack) * levels.costs[-1].classic("seconds") * (1 + 1e-9)).all()


@st.composite
def adversaries(draw):
    """The worst that an engine can do to a walk through many exits: any jumps, and a stop anywhere or nowhere."""
    exits = draw(st.integers(1, 16))
    overshoot = draw(st.sampled_from(["last_exit", "classifier"]))
    policy = Predictive(1.0, draw(st.integers(1, exits)), draw(st.integers(1, 8)), overshoot)
    tried, steps, exit = np.zeros((1, exits), dtype=np.bool_), 0, policy.first_exit(exits)
    stop = draw(st.integers(1, exits + 1))
    while exit <= exits:
        tried[0, exit - 1] = True
        if exit >= stop:
            break
        exit, jump = draw(st.sampled_from(next_exits(policy, exit, exits)))
        steps += jump
    walk = Walk(np.array([exit]), np.zeros(1, dtype=np.int64), tried, np.array([steps]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = random.uniform(0.0, 1.0, 4)

    def costs(slowness):
        return Costs(
            segment_flops=np.ones(exits + 1),
            head_flops=np.ones(exits),
            segment_seconds=slowness * random.uniform(1e-4, 1e-2, exits + 1),
            head_seconds=slowness * scale[0] * random.uniform(0, 1e-2, exits),
            engine_step_seconds=slowness * scale[1] * 1e-3,
            segment_energy=np.ones(exits + 1),
            head_energy=np.ones(exits),
            energy_source="modelled:drawn",
        )

    levels = LevelCosts(
        megahertz=np.arange(1.0, 9.0),
        costs=tuple(costs(8 / level) for level in range(1, 9)),
        idle_watts=1.0,
        switch_seconds=scale[2] * draw(st.sampled_from([0.0, 1e-4, 1e-2])),
    )
    return walk, policy, levels


@given(adversaries(), st.sampled_from([0.0, 1e-3, 0.1, 0.5, 2.0, 20.0]))
def test_the_deadline_holds_against_an_adversary(adversary, more):
    walk, policy, levels = adversary
    slack = smallest_slack(levels, policy, levels.exit_count) + more
    deadline = (1 + slack) * levels.costs[-1].classic("seconds")
    simulated = simulate(walk, levels, rule="deadline", policy=policy, slack=slack, period=deadline)
    assert simulated.seconds[0] <= deadline * (1 + 1e-9)


@given(cases())
def test_the_smallest_slack_is_that_of_the_worst_walk(case):
    trace, policy, levels, _, _ = case
    fast = levels.costs[-1]
    worst = worst_walk(fast, policy, 0) / fast.classic("seconds") - 1
    assert smallest_slack(levels, policy, trace.exit_count) == pytest.approx(max(0.0, worst), rel=1e-12, abs=1e-12)


@given(cases(), st.floats(0.01, 0.99))
def test_less_than_the_smallest_slack_is_refused(case, share):
    trace, policy, levels, _, _ = case
    smallest = smallest_slack(levels, policy, trace.exit_count)
    if smallest > 0:
        with pytest.raises(UserError, match="needs at least") as caught:
            simulate(replay(trace, policy), levels, rule="deadline", policy=policy, slack=share * smallest, period=1e9)
        assert repr(smallest) in str(caught.value)


@given(cases())
def test_racing_takes_what_a_walk_costs_at_full_speed(case):
    trace, policy, levels, slack, period = case
    walk = replay(trace, policy)
    simulated = simulate(walk, levels, rule="race_to_idle", policy=policy, slack=slack, period=period)
    seconds, joules = (levels.costs[-1].per_sample(walk, measure) for measure in ("seconds", "energy"))
    assert simulated.seconds == pytest.approx(seconds, rel=1e-12, abs=1e-12)
    assert simulated.joules == pytest.approx(joules + levels.idle_watts * np.maximum(0, period - seconds), rel=1e-12)
    assert not simulated.switches.any()
