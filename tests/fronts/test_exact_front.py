"""The exact front against brute force: every start layer, every beta at which anything can change."""

from dataclasses import replace
from fractions import Fraction
from functools import cache
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import examples
from support.plain_twins import betas_about, plain_cost, plain_walks, telling_betas
from support.random_traces import learned_trace, rounded_costs, rules, traces, whole_costs

from study import Classic, Costs, Hierarchical, Placed, Predictive, Static, Trace, UserError, exact_front, replay
from study.fronts.exact import Limits, front_of_sweeps
from study.fronts.sweep import Sweep
from study.policies.criteria import CRITERIA
from study.policies.decision_table import table_for

MAX_JUMP = 3
TWO, THREE = ("accuracy", "flops"), ("accuracy", "flops", "energy")
EXACT = ("logit", "patience", "oracle")
"""Criteria whose scores are the same numbers in plain Python."""
RULES = [
    (Predictive, {"max_jump": MAX_JUMP, "overshoot": "last_exit"}),
    (Predictive, {"max_jump": MAX_JUMP, "overshoot": "classifier"}),
    (Hierarchical, {}),
]
rules_of_the_paper = pytest.mark.parametrize(
    ("policy", "options"), RULES, ids=["last_exit", "classifier", "hierarchical"]
)
both_objectives = pytest.mark.parametrize("objectives", [TWO, THREE], ids=["two", "three"])
small = traces(max_samples=4, max_exits=4, max_classes=3)


def point_of(trace, costs, policy, objectives):
    """Mean accuracy and costs of an operating point, exactly.

    By the plain twin; for a criterion whose last bits differ there, by the replay of the same scores.
    """
    if policy.criterion in EXACT:
        walks = plain_walks(trace, policy)
        answers = [walk.answer for walk in walks]
    else:
        walk = replay(trace, policy)
        answers = walk.predictions.tolist()
    point = []
    for name in objectives:
        segments, heads, step = (getattr(costs, f"{part}_{name}", 0) for part in ("segment", "head", "engine_step"))
        if name == "accuracy":
            total = sum(answer == label for answer, label in zip(answers, trace.labels, strict=True))
        elif policy.criterion in EXACT:
            total = sum(plain_cost(one, segments, heads, step) for one in walks)
        else:
            total = costs.per_sample(walk, name).sum()
        point.append(Fraction(int(total), len(trace.labels)))
    return tuple(point)


def at(rule, beta, start):
    """The rule at a beta and a start layer."""
    return replace(rule, beta=beta, **({} if isinstance(rule, Placed) else {"start_layer": start}))


def starts_of(rule, trace):
    """Its start layers."""
    return [rule.exits[0]] if isinstance(rule, Placed) else range(1, trace.exit_count + 1)


def every_beta(trace, rule):
    """Betas at which each operating point of a rule at its start layer is met, falling."""
    if rule.max_jump:
        return telling_betas(trace, rule.max_jump)[::-1]
    return betas_about(np.unique(table_for(trace, rule).stop))[::-1]


def met_points(networks, rule, objectives, starts=None, beta=(0.0, inf)):
    """Every operating point -> (network, lowest start layer, highest of the betas looked at) that first gives it."""
    found = {}
    for name, (trace, costs) in networks.items():
        for start in starts or starts_of(rule, trace):
            own = at(rule, 1.0, start)
            looked_at = {*every_beta(trace, own), *(end for end in beta if end > 0)}
            for one in sorted((one for one in looked_at if beta[0] <= one <= beta[1]), reverse=True):
                found.setdefault(point_of(trace, costs, replace(own, beta=one), objectives), (name, start, one))
    return found


def dominates(one, other) -> bool:
    """Accuracy is first and maximised, costs are minimised."""
    no_worse = one[0] >= other[0] and all(a <= b for a, b in zip(one[1:], other[1:], strict=True))
    return no_worse and one != other


def best_of(found):
    """Those that no other dominates."""
    return {point: where for point, where in found.items() if not any(dominates(other, point) for other in found)}


def just_above(beta: float) -> float:
    """The next float64; infinity behind the largest."""
    with np.errstate(over="ignore"):
        return float(np.nextafter(beta, inf))


def rows_of(front, objectives, samples):
    """The front's rows as fractions of N."""
    sums = front[list(objectives)].to_numpy() * samples
    np.testing.assert_allclose(sums, sums.round(), rtol=0, atol=1e-6)
    return [tuple(Fraction(int(total), samples) for total in row) for row in sums.round()]


def assert_front(front, objectives, samples, expected) -> None:
    """Each expected point is there once, from the network, start layer and beta that give it first."""
    rows = rows_of(front, objectives, samples)
    assert len(rows) == len(set(rows))
    assert set(rows) == set(expected)
    networks = front["network"] if "network" in front else [""] * len(front)
    for point, network, start, low, high in zip(
        rows, networks, front["start_layer"], front["beta_low"], front["beta_high"], strict=True
    ):
        assert expected[point][:2] == (network, start)
        assert low < expected[point][2] <= high


# --- the whole front -------------------------------------------------------------------------------------------------


@rules_of_the_paper
@both_objectives
@given(trace=small, data=st.data())
@examples(25)
def test_the_front_is_that_of_brute_force(policy, options, objectives, trace, data):
    costs = data.draw(whole_costs(trace.exit_count))
    front = exact_front(trace, costs, policy, objectives, **options)
    expected = best_of(met_points({"": (trace, costs)}, policy(1.0, **options), objectives))
    assert_front(front, objectives, len(trace.labels), expected)
    rows = rows_of(front, objectives, len(trace.labels))
    assert [expected[point][2] for point in rows] == front["beta_high"].tolist()


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("policy", [Hierarchical, Placed])
@given(trace=small, data=st.data())
@examples(20)
def test_the_front_of_any_criterion_is_that_of_brute_force(policy, criterion, trace, data):
    costs, objectives = data.draw(whole_costs(trace.exit_count)), data.draw(st.sampled_from([TWO, THREE]))
    options = {"criterion": criterion}
    if policy is Placed:
        options["exits"] = sorted(data.draw(st.sets(st.integers(1, trace.exit_count), min_size=1)))
    front = exact_front(trace, costs, policy, objectives, **options)
    expected = best_of(met_points({"": (trace, costs)}, policy(1.0, **options), objectives))
    assert_front(front, objectives, len(trace.labels), expected)


@given(trace=small, data=st.data())
@examples(40)
def test_the_front_of_some_start_layers_is_that_of_brute_force_over_them(trace, data):
    costs = data.draw(whole_costs(trace.exit_count))
    rule = data.draw(rules(trace).filter(lambda rule: not isinstance(rule, Placed)))
    layers = sorted(data.draw(st.sets(st.integers(1, trace.exit_count), min_size=1)))
    settings = {name: getattr(rule, name) for name in ("max_jump", "overshoot", "criterion") if hasattr(rule, name)}
    front = exact_front(trace, costs, type(rule), THREE, start_layers=layers, **settings)
    expected = best_of(met_points({"": (trace, costs)}, rule, THREE, layers))
    assert_front(front, THREE, len(trace.labels), expected)


def test_the_order_of_start_layers_does_not_matter():
    """Of equal points the one with the lowest start layer is kept: here all are equal."""
    trace = Trace(logits=np.zeros((2, 5, 1), np.float32), labels=np.zeros(2, np.int64), thresholds=np.ones(4))
    costs = Costs(segment_flops=np.zeros(5), head_flops=np.zeros(4))
    for policy in (Predictive, Hierarchical):
        assert exact_front(trace, costs, policy, start_layers=[4, 2, 3])["start_layer"].tolist() == [2]


@given(data=st.data(), samples=st.integers(1, 4), count=st.integers(1, 3))
@examples(40)
def test_the_front_of_several_networks_is_that_of_brute_force_over_all(data, samples, count):
    """They differ in exits, classes and costs, and are of the same images. Of equal points the first one's is kept."""
    networks = {}
    for number in range(count):
        trace = data.draw(traces(samples=samples, max_exits=3, max_classes=3))
        networks[f"network {number}"] = (trace, data.draw(whole_costs(trace.exit_count)))
    objectives = data.draw(st.sampled_from([TWO, THREE]))
    policy, options = data.draw(st.sampled_from([*RULES, (Hierarchical, {"criterion": "patience"})]))
    front = exact_front(networks, policy=policy, objectives=objectives, **options)
    assert front.columns.tolist() == ["network", "start_layer", "beta_low", "beta_high", *objectives]
    expected = best_of(met_points(networks, policy(1.0, **options), objectives))
    assert_front(front, objectives, samples, expected)


# --- limits ----------------------------------------------------------------------------------------------------------


@st.composite
def limits(draw, found, betas):
    """Limits at or between the values of the points, so that many leave some of them."""
    points = sorted(found)
    low, high = sorted([draw(st.sampled_from(betas)), draw(st.sampled_from(betas))])
    beta = draw(st.sampled_from([(0.0, inf), (low, high), (low, low), (low, inf), (0.0, high)]))
    accuracy = draw(st.sampled_from([0.0, 0.5, 1.0, float(draw(st.sampled_from(points))[0])]))
    most = {}
    for place, name in enumerate(("flops", "energy"), start=1):
        if draw(st.booleans()):
            most[name] = draw(st.sampled_from([float(draw(st.sampled_from(points))[place]), 7.3]))
    return Limits(beta, accuracy, most)


@given(trace=small, data=st.data())
@examples(100)
def test_limits_filter_before_the_front_is_taken(trace, data):
    """A cost may be limited that is no objective."""
    rule, costs = data.draw(rules(trace)), data.draw(whole_costs(trace.exit_count))
    every = met_points({"": (trace, costs)}, rule, THREE)
    asked = data.draw(limits(every, every_beta(trace, rule)))
    objectives = data.draw(st.sampled_from([TWO, THREE]))
    front = front_of_sweeps([Sweep(trace, costs, rule)], objectives, asked)
    assert front.columns.tolist() == ["sweep", "start_layer", "beta_low", "beta_high", *objectives]
    assert (front["sweep"] == 0).all()
    found = {}
    for point, where in met_points({"": (trace, costs)}, rule, THREE, beta=asked.beta).items():
        within = [float(point[THREE.index(name)]) <= most for name, most in asked.most.items()]
        if float(point[0]) >= asked.least_accuracy and all(within):
            first = found.get(point[: len(objectives)], where)
            found[point[: len(objectives)]] = min(first, where, key=lambda one: (one[1], -one[2]))
    assert_front(front, objectives, len(trace.labels), best_of(found))


def test_limits_by_hand():
    """One exit that is never right, at ratios 1 and 3: cost 3 without a stop, 2.5 with one, 2 with both."""
    logits = np.array([[[1, 0], [0, 1]], [[3, 0], [0, 1]]], dtype=np.float32)
    trace = Trace(logits=logits, labels=np.array([1, 1]), thresholds=np.ones(1))
    sweep = Sweep(trace, Costs(segment_flops=[1.0, 1.0], head_flops=[1.0]), Hierarchical(1.0))

    def within(*limits, **more):
        front = front_of_sweeps([sweep], TWO, Limits(*limits, **more))
        return front[["beta_low", "beta_high", "accuracy", "flops"]].to_numpy().tolist()

    late, middle, soon = [3, inf, 1, 3], [1, 3, 0.5, 2.5], [0, 1, 0, 2]
    assert within() == [soon, middle, late]
    assert within((1.0, 3.0)) == [soon, middle]  # beta 3 still stops one; just above 3 is left out
    assert within((just_above(1.0), just_above(3.0))) == [middle, late]
    assert within((2.0, 2.0)) == [middle]
    assert within((3.5, 4.0)) == [late]
    assert within(least_accuracy=0.5) == [middle, late]
    assert within(least_accuracy=0.51) == [late]
    assert within(most={"flops": 2.5}) == [soon, middle]
    assert within(most={"flops": 2.49}) == [soon]
    assert within((0.0, inf), 1.0, {"flops": 2.9}) == []


@given(trace=small, data=st.data())
@examples(40)
def test_the_front_of_sweeps_is_that_of_all_their_points(trace, data):
    """Different rules on one network, each in its place."""
    costs = data.draw(whole_costs(trace.exit_count))
    several = data.draw(st.lists(rules(trace), min_size=1, max_size=3))
    front = front_of_sweeps([Sweep(trace, costs, rule) for rule in several], THREE)
    found = {}
    for place, rule in enumerate(several):
        for point, where in met_points({place: (trace, costs)}, rule, THREE).items():
            found.setdefault(point, where)
    assert_front(front.rename(columns={"sweep": "network"}), THREE, len(trace.labels), best_of(found))


# --- intervals of beta -----------------------------------------------------------------------------------------------


@rules_of_the_paper
@both_objectives
@given(trace=small, data=st.data())
@examples(40)
def test_intervals_of_beta_hold_and_are_as_wide_as_can_be(policy, options, objectives, trace, data):
    costs = data.draw(whole_costs(trace.exit_count))
    front = exact_front(trace, costs, policy, objectives, **options)

    @cache
    def at(start, beta):
        walk = replay(trace, policy(beta, start, **options))
        means = [costs.per_sample(walk, name).mean() for name in objectives[1:]]
        return (walk.accuracy(trace.labels), *means)

    for row in front.itertuples():
        start, low, high = int(row.start_layer), row.beta_low, row.beta_high
        point = tuple(getattr(row, name) for name in objectives)
        assert 0 <= low < high
        above_low = just_above(low)
        middle = 2 * low + 1 if high == inf else low / 2 + high / 2
        for beta in {above_low, max(above_low, middle), high}:
            assert at(start, beta) == pytest.approx(point, rel=1e-14)
        if low > 0:
            assert at(start, low) != pytest.approx(point, rel=1e-9)
        if high < inf:
            assert at(start, just_above(high)) != pytest.approx(point, rel=1e-9)


@rules_of_the_paper
def test_intervals_are_joined_where_changes_cancel(policy, options):
    """Below beta 2 one sample turns right as the other turns wrong, at no cost: beta changes nothing."""
    logits = np.array([[[2, 0], [0, 1]], [[2, 0], [0, 1]]], dtype=np.float32)
    trace = Trace(logits=logits, labels=np.array([0, 1]), thresholds=np.ones(1))
    front = exact_front(trace, Costs(segment_flops=[1.0, 0.0], head_flops=[1.0]), policy, **options)
    assert front.to_numpy().tolist() == [[1, 0.0, inf, 0.5, 2.0]]


# --- a larger trace --------------------------------------------------------------------------------------------------


@rules_of_the_paper
def test_with_rounded_costs_every_row_is_what_replay_says(policy, options):
    trace, costs = learned_trace(), rounded_costs()
    front = exact_front(trace, costs, policy, THREE, **options)
    assert len(front) > 10
    for row in front.itertuples():
        walk = replay(trace, policy(row.beta_high, int(row.start_layer), **options))
        assert walk.accuracy(trace.labels) == pytest.approx(row.accuracy, rel=1e-14)
        assert costs.per_sample(walk, "flops").mean() == pytest.approx(row.flops, rel=1e-12)
        assert costs.per_sample(walk, "energy").mean() == pytest.approx(row.energy, rel=1e-12)


@rules_of_the_paper
def test_no_sampled_setting_beats_the_front(policy, options):
    trace, costs = learned_trace(), rounded_costs()
    front = exact_front(trace, costs, policy, **options)
    random = np.random.default_rng(2)
    for beta in random.uniform(0.2, 12.0, 60):
        walk = replay(trace, policy(beta, int(random.integers(1, 7)), **options))
        as_good = front["accuracy"] >= walk.accuracy(trace.labels)
        assert front.loc[as_good, "flops"].min() <= costs.per_sample(walk, "flops").mean() * (1 + 1e-12)


@pytest.mark.parametrize("objectives", [TWO, ("flops", "accuracy"), ("accuracy", "energy", "flops")])
def test_columns_order_and_direction(objectives):
    front = exact_front(learned_trace(), rounded_costs(), objectives=objectives)
    assert front.columns.tolist() == ["start_layer", "beta_low", "beta_high", *objectives]
    first_cost = next(name for name in objectives if name != "accuracy")
    assert front[first_cost].is_monotonic_increasing
    assert front.index.tolist() == list(range(len(front)))
    if len(objectives) == 2:
        assert front["accuracy"].is_monotonic_increasing


def test_only_the_start_layers_asked_for_are_swept():
    trace, costs = learned_trace(), rounded_costs()
    assert set(exact_front(trace, costs, start_layers=[2, 4])["start_layer"]) <= {2, 4}
    assert set(exact_front(trace, costs, start_layers=[3])["start_layer"]) == {3}


@pytest.mark.parametrize("start_layer", [0, 7, 8])
@pytest.mark.parametrize("policy", [Predictive, Hierarchical])
def test_a_start_layer_that_the_trace_lacks_is_refused(policy, start_layer):
    with pytest.raises(UserError, match="1 to 6"):
        exact_front(learned_trace(), rounded_costs(), policy, start_layers=[start_layer])


@pytest.mark.parametrize(
    "objectives", [(), ("accuracy",), ("flops",), ("accuracy", "joules"), ("accuracy", "flops", "seconds")]
)
def test_objectives_that_make_no_front_are_refused(objectives):
    with pytest.raises(UserError) as error:
        exact_front(learned_trace(), rounded_costs(), objectives=objectives)
    assert "\n" not in str(error.value)


def test_an_energy_objective_without_energies_is_refused():
    costs = Costs(segment_flops=np.ones(7), head_flops=np.ones(6))
    with pytest.raises(UserError, match="energy"):
        exact_front(learned_trace(), costs, objectives=("accuracy", "energy"))


def test_costs_of_another_network_are_refused():
    with pytest.raises(UserError, match="5 exits"):
        exact_front(learned_trace(), rounded_costs(5))


@pytest.mark.parametrize("policy", [Classic, Static])
def test_the_front_of_a_policy_without_beta_is_refused(policy):
    with pytest.raises(UserError, match="needs a policy with a beta"):
        exact_front(learned_trace(), rounded_costs(), policy)


def test_placed_without_exits_and_a_trace_without_costs_are_refused():
    with pytest.raises(UserError, match="exits"):
        exact_front(learned_trace(), rounded_costs(), Placed)
    with pytest.raises(UserError, match="costs"):
        exact_front(learned_trace())


def test_the_front_of_no_network_is_refused():
    with pytest.raises(UserError):
        exact_front({})


def test_an_unknown_criterion_is_refused():
    with pytest.raises(UserError, match="softmax"):
        exact_front(learned_trace(), rounded_costs(), Hierarchical, criterion="softmax")
