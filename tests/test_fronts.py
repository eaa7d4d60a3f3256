"""The exact front against brute force: every start layer, every beta at which anything can change."""

from functools import cache
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_twins import plain_cost, plain_walks, telling_betas
from random_traces import traces, whole_costs

from study import Costs, Hierarchical, Predictive, Trace, UserError, exact_front, replay

MAX_JUMP = 3
TWO, THREE = ("accuracy", "flops"), ("accuracy", "flops", "energy")
RULES = [
    (Predictive, {"max_jump": MAX_JUMP, "overshoot": "last_exit"}),
    (Predictive, {"max_jump": MAX_JUMP, "overshoot": "classifier"}),
    (Hierarchical, {}),
]
rules = pytest.mark.parametrize(("policy", "options"), RULES, ids=["last_exit", "classifier", "hierarchical"])
small = traces(max_samples=4, max_exits=4, max_classes=3)


def plain_point(trace, costs, policy, objectives):
    """Right answers and summed costs (whole numbers) of an operating point, by the plain twin."""
    walks = plain_walks(trace, policy)
    point = []
    for name in objectives:
        if name == "accuracy":
            point.append(sum(walk.answer == label for walk, label in zip(walks, trace.labels, strict=True)))
        else:
            segments, heads, step = (getattr(costs, f"{part}_{name}") for part in ("segment", "head", "engine_step"))
            point.append(sum(plain_cost(walk, segments, heads, step) for walk in walks))
    return tuple(point)


def dominates(one, other) -> bool:
    """Accuracy is first and maximised, costs are minimised."""
    no_worse = one[0] >= other[0] and all(a <= b for a, b in zip(one[1:], other[1:], strict=True))
    return no_worse and one != other


def just_above(beta: float) -> float:
    """The next float64; infinity behind the largest."""
    with np.errstate(over="ignore"):
        return float(np.nextafter(beta, inf))


def points(front, objectives, count):
    """The front's rows as sums over samples: the division by N is undone."""
    sums = front[list(objectives)].to_numpy() * count
    np.testing.assert_allclose(sums, sums.round(), rtol=0, atol=1e-6)
    return [tuple(row) for row in sums.round()]


@rules
@pytest.mark.parametrize("objectives", [TWO, THREE], ids=["two", "three"])
@given(trace=small, data=st.data())
@settings(deadline=None, max_examples=25)
def test_the_front_is_that_of_brute_force(policy, options, objectives, trace, data):
    costs = data.draw(whole_costs(trace.exit_count))
    front = exact_front(trace, costs, policy, objectives, **options)
    found = {}  # point -> (lowest start layer, highest beta there)
    for start in range(1, trace.exit_count + 1):
        for beta in reversed(telling_betas(trace, MAX_JUMP)):
            point = plain_point(trace, costs, policy(beta, start, **options), objectives)
            found.setdefault(point, (start, beta))
    expected = {point for point in found if not any(dominates(other, point) for other in found)}
    rows = points(front, objectives, len(trace.labels))
    assert len(rows) == len(set(rows))
    assert set(rows) == expected
    for point, start, high in zip(rows, front["start_layer"], front["beta_high"], strict=True):
        assert found[point] == (start, high)


@rules
@pytest.mark.parametrize("objectives", [TWO, THREE], ids=["two", "three"])
@given(trace=small, data=st.data())
@settings(deadline=None, max_examples=40)
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


@rules
def test_intervals_are_joined_where_changes_cancel(policy, options):
    """Below beta 2 one sample turns right as the other turns wrong, at no cost: beta changes nothing."""
    logits = np.array([[[2, 0], [0, 1]], [[2, 0], [0, 1]]], dtype=np.float32)
    trace = Trace(logits=logits, labels=np.array([0, 1]), thresholds=np.ones(1))
    front = exact_front(trace, Costs(segment_flops=[1.0, 0.0], head_flops=[1.0]), policy, **options)
    assert front.to_numpy().tolist() == [[1, 0.0, inf, 0.5, 2.0]]


def learned_trace(samples=200, exits=6, classes=5) -> Trace:
    """Deeper exits know the label better; no ties."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, samples)
    depth = np.arange(1, exits + 2)[:, None]
    logits = random.normal(size=(samples, exits + 1, classes)) + depth * np.eye(classes)[labels][:, None] / 2
    return Trace(logits=logits.astype(np.float32), labels=labels, thresholds=random.uniform(0.5, 2.0, exits))


def rounded_costs(exits=6) -> Costs:
    """Joules and FLOPs whose sums are rounded."""
    random = np.random.default_rng(1)
    return Costs(
        segment_flops=random.uniform(1e6, 1e8, exits + 1),
        head_flops=random.uniform(1e5, 1e6, exits),
        engine_step_flops=20.0,
        segment_energy=random.uniform(1e-6, 1e-5, exits + 1),
        head_energy=random.uniform(1e-8, 1e-7, exits),
        engine_step_energy=1e-10,
        energy_source="modelled:drawn",
    )


@rules
def test_with_rounded_costs_every_row_is_what_replay_says(policy, options):
    trace, costs = learned_trace(), rounded_costs()
    front = exact_front(trace, costs, policy, THREE, **options)
    assert len(front) > 10
    for row in front.itertuples():
        walk = replay(trace, policy(row.beta_high, int(row.start_layer), **options))
        assert walk.accuracy(trace.labels) == pytest.approx(row.accuracy, rel=1e-14)
        assert costs.per_sample(walk, "flops").mean() == pytest.approx(row.flops, rel=1e-12)
        assert costs.per_sample(walk, "energy").mean() == pytest.approx(row.energy, rel=1e-12)


@rules
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
