"""Grids: equal to one replay a point."""

from itertools import product
from math import inf, nan

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from support.laws import examples
from support.plain_twins import betas_about, telling_betas
from support.random_traces import betas, learned_trace, rounded_costs, traces, whole_costs

from study import Costs, Hierarchical, Predictive, Trace, UserError, exact_front, replay, replay_grid
from study import arrays as threads
from study.fronts import grid as grids
from study.policies.decision_table import ratio_table

OVERSHOOTS = ("last_exit", "classifier")


def at(row):
    """The policy of a row."""
    if row.max_jump == 0:
        return Hierarchical(row.beta, row.start_layer)
    return Predictive(row.beta, row.start_layer, row.max_jump, row.overshoot)


def check(grid, trace, costs, measures, rel) -> None:
    """Every row is what its replay gives."""
    for row in grid.itertuples():
        walk = replay(trace, at(row))
        assert row.accuracy == walk.accuracy(trace.labels)
        for measure in measures:
            assert getattr(row, measure) == pytest.approx(costs.per_sample(walk, measure).mean(), rel=rel, abs=0)


@pytest.fixture(params=["a pass for each beta", "the pieces of all betas"])
def way(request, monkeypatch):
    """Few betas and many are computed in two ways, each of which can do any number."""
    monkeypatch.setattr(grids, "FEW", 0 if "pieces" in request.param else 10**9)


@given(trace=traces(max_samples=4, max_exits=5), data=st.data())
@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_the_replay_of_its_point(way, trace, data):
    """Betas lie at ratios and beside them, in any order, some twice."""
    costs = data.draw(whole_costs(trace.exit_count))
    some = st.one_of(betas(trace), st.just(inf), st.sampled_from(telling_betas(trace, 4)))
    asked = data.draw(st.lists(some, min_size=1, max_size=8))
    asked += data.draw(st.lists(st.sampled_from(asked), max_size=2))
    exit = st.integers(1, trace.exit_count)
    layers = data.draw(st.none() | st.lists(exit, min_size=1, max_size=3, unique=True))
    jumps = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=2, unique=True))
    overshoots = data.draw(st.permutations(OVERSHOOTS))
    grid = replay_grid(trace, costs, asked, start_layers=layers, max_jumps=jumps, overshoots=overshoots)
    points = list(zip(grid["beta"], grid["start_layer"], grid["max_jump"], grid["overshoot"], strict=True))
    layers = range(1, trace.exit_count + 1) if layers is None else layers
    assert len(points) == len(set(points))
    assert set(points) == set(product(asked, layers, jumps, overshoots))
    check(grid, trace, costs, ("flops", "energy"), rel=1e-15)


@pytest.mark.parametrize(("max_jump", "overshoot"), [(0, "last_exit"), (1, "last_exit"), (4, "classifier")])
@given(trace=traces(max_samples=2, max_exits=4, max_classes=3), data=st.data())
@examples(15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_grid_finer_than_any_interval_of_beta_holds_every_operating_point(way, max_jump, overshoot, trace, data):
    costs = data.draw(whole_costs(trace.exit_count))
    stop = ratio_table(trace, 0).stop
    asked = telling_betas(trace, max_jump) if max_jump else betas_about(np.unique(stop))
    assert len(asked) > len(np.unique(stop[stop > 0]))
    grid = replay_grid(trace, costs, asked[::-1] + asked, max_jumps=[max_jump], overshoots=[overshoot])
    assert len(grid) == len(asked) * trace.exit_count
    check(grid, trace, costs, ("flops", "energy"), rel=1e-15)


def learned(exits=6) -> tuple[Trace, Costs]:
    """A trace and its costs."""
    return learned_trace(exits=exits), rounded_costs(exits)


def test_with_rounded_costs_rows_are_replays_to_12_digits(way):
    trace, costs = learned()
    grid = replay_grid(trace, costs, np.geomspace(0.5, 12, 7), max_jumps=(0, 3), overshoots=OVERSHOOTS)
    assert grid["accuracy"].nunique() > 20
    check(grid, trace, costs, ("flops", "energy"), rel=1e-12)


@pytest.mark.parametrize("cores", [1, 3])
def test_slices_and_threads_give_the_same_grid(way, cores, monkeypatch):
    trace, costs = learned()
    grid = replay_grid(trace, costs, [0.5, 2.0, 8.0], max_jumps=(0, 3))
    monkeypatch.setattr(threads, "SMALLEST_SLICE", 1)
    monkeypatch.setattr(threads, "thread_count", lambda: cores)
    assert replay_grid(trace, costs, [0.5, 2.0, 8.0], max_jumps=(0, 3)).equals(grid)


def test_few_betas_and_many_are_computed_in_two_ways_that_agree_to_the_last_bit(monkeypatch):
    trace, costs = learned()
    asked = np.geomspace(0.2, 20, 3 * grids.FEW)
    both = []
    for few in (0, 10**9):
        monkeypatch.setattr(grids, "FEW", few)
        both.append(replay_grid(trace, costs, asked, max_jumps=(0, 1, 3), overshoots=OVERSHOOTS))
    assert both[0].equals(both[1])


def test_columns_are_the_settings_accuracy_and_each_measure_that_the_costs_hold():
    grid = replay_grid(*learned(), [2.0])
    assert grid.columns.tolist() == ["beta", "start_layer", "max_jump", "overshoot", "accuracy", "flops", "energy"]
    assert grid["max_jump"].tolist() == [8] * 6
    assert grid["overshoot"].tolist() == ["last_exit"] * 6


def test_no_row_beats_the_exact_front():
    trace, costs = learned()
    grid = replay_grid(trace, costs, np.geomspace(0.2, 20, 50), max_jumps=[3])
    front = exact_front(trace, costs, max_jump=3)
    for row in grid.itertuples():
        assert front.loc[front["accuracy"] >= row.accuracy, "flops"].min() <= row.flops * (1 + 1e-12)


@pytest.mark.parametrize("asked", [[], [0.0], [1.0, -1.0], [nan], [2.0, nan]])
def test_betas_that_are_not_above_0_are_refused(asked):
    with pytest.raises(UserError, match="above 0") as error:
        replay_grid(*learned(), asked)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_layers": [7]}, "1 to 6"),
        ({"start_layers": [0]}, "1 to 6"),
        ({"start_layers": []}, "at least one"),
        ({"max_jumps": [3, -1]}, "max_jump"),
        ({"overshoots": ["stay"]}, "overshoot"),
    ],
)
def test_values_that_no_policy_has_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        replay_grid(*learned(), [1.0], **options)


@pytest.mark.parametrize("name", ["max_jumps", "overshoots"])
def test_a_grid_without_a_value_in_some_direction_is_refused(name):
    with pytest.raises(UserError):
        replay_grid(*learned(), [1.0], **{name: []})


def test_costs_of_another_network_are_refused():
    with pytest.raises(UserError, match="5 exits"):
        replay_grid(learned()[0], learned(exits=5)[1], [1.0])
