"""Frequency scaling: the deadline holds for every walk, and the simulation equals a plain one, sample by sample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.plain_twins import engine, stops
from support.random_traces import policies, traces

from study import Classic, Costs, Hierarchical, Placed, Predictive, Static, UserError, Walk, replay
from study.costs.model.dvfs import RULES, LevelCosts, simulate, smallest_slack


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
