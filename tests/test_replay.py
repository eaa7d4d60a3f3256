"""Replay: equal to the plain twin, and the laws that it obeys."""

from dataclasses import replace
from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_twins import plain_cost, plain_prediction_accuracy, plain_walks
from random_traces import betas, policies, traces, whole_costs

from study import (
    Classic,
    Costs,
    Hierarchical,
    Placed,
    Predictive,
    Static,
    Trace,
    UserError,
    prediction_accuracy,
    replay,
)
from study.layer_statistics import exit_statistics

KINDS = ["classic", "static", "hierarchical", "placed", "predictive"]


def same(walk, other) -> bool:
    """Whether two walks are equal in every field."""
    fields = ("exit_index", "predictions", "tried", "engine_steps", "heads_run")
    return all(np.array_equal(getattr(walk, name), getattr(other, name)) for name in fields)


def steady(**changes) -> Trace:
    """3 samples, 2 exits, 2 classes; `changes` replace a field."""
    fields = {
        "logits": np.arange(18, dtype=np.float32).reshape(3, 3, 2),
        "labels": np.array([0, 1, 1]),
        "thresholds": np.ones(2, dtype=np.float32),
    }
    return Trace(**(fields | changes))


# --- the trace -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [nan, np.inf, -np.inf])
@pytest.mark.parametrize("exit", [1, 3])
def test_a_logit_that_is_not_finite_is_refused_in_one_line(bad, exit):
    logits = steady().logits.copy()
    logits[1, exit - 1, 0] = bad
    with pytest.raises(UserError, match=f"sample 1 at exit {exit} ") as error:
        steady(logits=logits)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"logits": np.zeros((3, 2))},
        {"logits": np.zeros((3, 1, 2)), "thresholds": np.ones(0)},
        {"logits": np.zeros((0, 3, 2)), "labels": np.zeros(0)},
        {"logits": np.zeros((3, 3, 0))},
        {"labels": np.array([0, 1])},
        {"labels": np.array([[0], [1], [1]])},
        {"labels": np.array([0, 1, 2])},
        {"labels": np.array([0, -1, 1])},
        {"thresholds": np.ones(3)},
        {"thresholds": np.array([1.0, -1.0])},
        {"thresholds": np.array([1.0, nan])},
        {"thresholds": np.array([1.0, np.inf])},
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(changes):
    with pytest.raises(UserError, match="trace") as error:
        steady(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("policy", [Static(3), Hierarchical(1.0, 3), Placed(1.0, [1, 3]), Predictive(1.0, 0)])
def test_an_exit_that_the_trace_lacks_is_refused(policy):
    with pytest.raises(UserError, match="1 to 2"):
        replay(steady(), policy)


# --- replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(trace=traces(), data=st.data())
@settings(deadline=None, max_examples=80)
def test_replay_equals_the_plain_twin(kind, trace, data):
    policy = data.draw(policies(trace, kinds=[kind]))
    walk, twins = replay(trace, policy), plain_walks(trace, policy)
    assert walk.exit_index.tolist() == [twin.exit for twin in twins]
    assert walk.predictions.tolist() == [twin.answer for twin in twins]
    assert [(np.flatnonzero(row) + 1).tolist() for row in walk.tried] == [twin.tried for twin in twins]
    assert walk.heads_run.tolist() == [len(twin.tried) for twin in twins]
    assert walk.engine_steps.tolist() == [twin.steps for twin in twins]
    right = sum(twin.answer == label for twin, label in zip(twins, trace.labels, strict=True))
    assert walk.accuracy(trace.labels) == right / len(twins)


def test_a_predictive_walk_by_hand():
    """One class, E = 5, thresholds 1: z^k = z, so that the engine hits at k = 1 or never.

    beta 4: exit 2 fails (3 < 4) and its engine takes K_max = 2 steps to exit 4, which fails, and 2 steps overshoot.
    """
    logits = np.array([9, 3, 9, 2, 9, 0], dtype=np.float32).reshape(1, 6, 1)
    trace = Trace(logits=logits, labels=np.zeros(1, dtype=np.int64), thresholds=np.ones(5))
    last = replay(trace, Predictive(4.0, start_layer=2, max_jump=2, overshoot="last_exit"))
    assert (last.exit_index[0], last.engine_steps[0], last.heads_run[0]) == (5, 4, 3)
    assert last.tried.tolist() == [[False, True, False, True, True]]
    over = replay(trace, Predictive(4.0, start_layer=2, max_jump=2, overshoot="classifier"))
    assert (over.exit_index[0], over.engine_steps[0], over.heads_run[0]) == (6, 4, 2)


def test_a_sample_that_fails_the_last_exit_goes_to_the_classifier():
    trace = steady(logits=np.ones((3, 3, 2), dtype=np.float32))
    for policy in (Predictive(9.0, 2), Hierarchical(9.0, 2), Placed(9.0, [2])):
        walk = replay(trace, policy)
        assert walk.exit_index.tolist() == [3, 3, 3]
        assert walk.tried.tolist() == [[False, True]] * 3
        assert not walk.engine_steps.any()


@given(traces(), st.data())
@settings(deadline=None, max_examples=60)
def test_hierarchical_is_placed_on_all_exits_from_the_start(trace, data):
    start, beta = data.draw(st.integers(1, trace.exit_count)), data.draw(betas(trace))
    placed = replay(trace, Placed(beta, range(start, trace.exit_count + 1)))
    assert same(replay(trace, Hierarchical(beta, start)), placed)


# --- laws ------------------------------------------------------------------------------------------------------------


@given(traces(), st.data())
@settings(deadline=None, max_examples=60)
def test_hierarchical_walks_never_get_shorter_as_beta_grows(trace, data):
    start = data.draw(st.integers(1, trace.exit_count))
    low, high = sorted([data.draw(betas(trace)), data.draw(betas(trace))])
    shorter, longer = replay(trace, Hierarchical(low, start)), replay(trace, Hierarchical(high, start))
    assert (shorter.exit_index <= longer.exit_index).all()
    assert (shorter.tried <= longer.tried).all()


@given(traces(), st.data())
@settings(deadline=None, max_examples=60)
def test_costs_per_sample_are_the_explicit_sum(trace, data):
    policy = data.draw(policies(trace))
    costs = data.draw(whole_costs(trace.exit_count))
    walk, twins = replay(trace, policy), plain_walks(trace, policy)
    flops = [plain_cost(twin, costs.segment_flops, costs.head_flops, costs.engine_step_flops) for twin in twins]
    energy = [plain_cost(twin, costs.segment_energy, costs.head_energy, costs.engine_step_energy) for twin in twins]
    assert costs.per_sample(walk, "flops").tolist() == flops
    assert costs.per_sample(walk, "energy").tolist() == energy
    classic = costs.per_sample(replay(trace, Classic()), "flops")
    assert classic.tolist() == [sum(costs.segment_flops)] * len(twins)


@given(traces(), st.data())
@settings(deadline=None, max_examples=60)
def test_the_order_of_samples_does_not_matter(trace, data):
    policy = data.draw(policies(trace))
    order = np.array(data.draw(st.permutations(range(len(trace.labels)))))
    walk = replay(trace, policy)
    shuffled = replay(replace(trace, logits=trace.logits[order], labels=trace.labels[order]), policy)
    for name in ("exit_index", "predictions", "tried", "engine_steps"):
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(walk, name)[order])


@given(traces(), st.data(), st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_scaling_logits_and_thresholds_by_a_power_of_two_changes_nothing(trace, data, power):
    policy = data.draw(policies(trace))
    factor = np.float32(2.0**power)
    scaled = replace(trace, logits=trace.logits * factor, thresholds=trace.thresholds * float(factor))
    assert same(replay(trace, policy), replay(scaled, policy))


@given(traces(), st.data())
@settings(deadline=None, max_examples=40)
def test_a_trace_answers_alike_whatever_was_asked_before(trace, data):
    """Ratios are kept between calls: another policy's must not be handed out."""
    asked = [data.draw(policies(trace)) for _ in range(3)]
    for policy in asked:
        assert same(replay(trace, policy), replay(replace(trace), policy))


# --- accuracy forward ------------------------------------------------------------------------------------------------


@given(traces(), st.data(), st.integers(1, 8))
@settings(deadline=None, max_examples=80)
def test_prediction_accuracy_equals_the_plain_twin(trace, data, max_jump):
    start, beta = data.draw(st.integers(1, trace.exit_count)), data.draw(betas(trace))
    share, count = prediction_accuracy(trace, beta=beta, start_layer=start, max_jump=max_jump)
    expected_share, expected_count = plain_prediction_accuracy(trace, beta, start, max_jump)
    assert count == expected_count
    assert share == pytest.approx(expected_share, nan_ok=True)


def _one_class(values) -> Trace:
    """One sample of one class: z^k = z, and thresholds are 1."""
    logits = np.array(values, dtype=np.float32).reshape(1, -1, 1)
    return Trace(logits=logits, labels=np.zeros(1, dtype=np.int64), thresholds=np.ones(len(values) - 1))


def test_prediction_accuracy_by_hand():
    """Exit 2 of 4 fails, so that the engine predicts K_max; without a stop the distance is 4 + 1 - 2 = 3."""
    nowhere, at_4, at_3 = _one_class([9, 1, 1, 1, 9]), _one_class([9, 1, 1, 9, 9]), _one_class([9, 1, 9, 9, 9])
    for trace, distance in ((nowhere, 3), (at_4, 2), (at_3, 1)):
        for max_jump in range(1, 6):
            expected = float(distance >= max_jump)
            assert prediction_accuracy(trace, beta=4.0, start_layer=2, max_jump=max_jump) == (expected, 1)


def test_samples_that_stop_at_the_start_are_not_counted():
    share, count = prediction_accuracy(_one_class([9, 1, 1]), beta=4.0, start_layer=1)
    assert isnan(share)
    assert count == 0


def test_prediction_accuracy_refuses_an_exit_that_the_trace_lacks():
    with pytest.raises(UserError, match="1 to 2"):
        prediction_accuracy(steady(), beta=1.0, start_layer=3)


# --- statistics of each layer ----------------------------------------------------------------------------------------


def test_exit_statistics_by_hand():
    """Sample 0 stops at exit 1, sample 1 at the classifier; nobody stops at exit 2."""
    logits = np.array([[[5, 0], [1, 0], [0, 1]], [[1, 0], [1, 0], [0, 1]]], dtype=np.float32)
    trace = Trace(logits=logits, labels=np.array([0, 1]), thresholds=np.array([1.0, 2.0]))
    costs = Costs(segment_flops=[1.0, 2.0, 4.0], head_flops=[16.0, 32.0])
    table = exit_statistics(trace, replay(trace, Hierarchical(4.0)), costs)
    assert table["exit"].tolist() == [1, 2, 3]
    assert table["share_stopped"].tolist() == [0.5, 0.0, 0.5]
    assert table["accuracy_all"].tolist() == [0.5, 0.5, 0.5]
    np.testing.assert_array_equal(table["accuracy_stopped"], [1.0, nan, 1.0])
    np.testing.assert_array_equal(table["threshold"], [1.0, 2.0, nan])
    assert table["cumulative_flops"].tolist() == [17.0, 35.0, 7.0]
