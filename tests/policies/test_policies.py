"""Thresholds, exit criterion, prediction engine, and the settings that policies refuse."""

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import examples
from support.plain_twins import engine, engine_ratios, largest, ratio
from support.random_traces import betas, traces

from study import Classic, Hierarchical, Placed, Predictive, Static, UserError
from study.policies.base import Policy, Ratios, betas_of
from study.policies.engine import jump_ratios, predicted_jumps, stop_ratios
from study.policies.policies import POLICIES
from study.policies.thresholds import thresholds_from_logits

# --- thresholds ------------------------------------------------------------------------------------------------------


def test_thresholds_by_hand():
    """Two samples, one exit and the classifier, two classes."""
    logits = np.array([[[1.0, -4.0], [90.0, 90.0]], [[2.0, -3.0], [90.0, 90.0]]], dtype=np.float32)
    assert thresholds_from_logits(logits, "mean_logit").tolist() == [1.0]  # |1 - 4 + 2 - 3| / 4
    assert thresholds_from_logits(logits, "mean_max").tolist() == [3.5]  # (|-4| + |-3|) / 2


@given(traces())
@examples(60)
def test_thresholds_equal_the_plain_sums(trace):
    samples, exits, classes = len(trace.labels), trace.exit_count, trace.logits.shape[2]
    by_mean = thresholds_from_logits(trace.logits, "mean_logit")
    by_max = thresholds_from_logits(trace.logits, "mean_max")
    assert by_mean.shape == by_max.shape == (exits,)
    assert by_mean.dtype == by_max.dtype == np.float64
    for exit in range(exits):
        total, maxima = 0.0, 0.0
        for sample in trace.logits:
            total += sum(float(z) for z in sample[exit])
            maxima += largest(sample[exit])
        assert by_mean[exit] == pytest.approx(abs(total) / (samples * classes), rel=1e-9, abs=1e-9)
        assert by_max[exit] == pytest.approx(maxima / samples, rel=1e-9)


def test_thresholds_are_summed_in_float64():
    """In float32, 2^24 + 1 is 2^24."""
    logits = np.array([2.0**24, 1.0, -(2.0**24), 1.0], dtype=np.float32).reshape(4, 1, 1).repeat(2, axis=1)
    assert thresholds_from_logits(logits, "mean_logit").tolist() == [0.5]


def test_an_unknown_statistic_is_refused():
    with pytest.raises(UserError, match="median"):
        thresholds_from_logits(np.zeros((1, 2, 1), dtype=np.float32), "median")


# --- exit criterion --------------------------------------------------------------------------------------------------


def test_stop_ratio_is_the_largest_absolute_logit_over_the_threshold():
    logits = np.array([[1.0, -6.0, 2.0], [3.0, 0.0, 0.0]], dtype=np.float32)
    assert stop_ratios(logits, 1.5).tolist() == [4.0, 2.0]


@pytest.mark.filterwarnings("error")
def test_a_zero_threshold_makes_every_ratio_infinite():
    logits = np.array([[0.0, 0.0], [1.0, -2.0]], dtype=np.float32)
    assert stop_ratios(logits, 0.0).tolist() == [inf, inf]
    assert jump_ratios(logits, np.array([1.0, 0.0]), 1, 3).tolist() == [[inf] * 3] * 2


def test_ratios_are_float64_quotients():
    """float32 would round 1 / 3 elsewhere."""
    assert stop_ratios(np.ones((1, 1), dtype=np.float32), 3.0)[0] == 1 / 3
    assert jump_ratios(np.ones((1, 1), dtype=np.float32), np.array([1.0, 3.0]), 1, 1)[0, 0] == 1 / 3


@pytest.mark.parametrize("policy", [Hierarchical(2.0), Placed(2.0, [1]), Predictive(2.0)])
def test_the_exit_criterion_holds_at_equality(policy):
    stop = np.array([np.nextafter(2.0, 0), 2.0, np.nextafter(2.0, 3)])
    decision = policy.decide(Ratios(stop, np.zeros((3, policy.max_jump))), exit=1, exit_count=9)
    assert decision.stop.tolist() == [False, True, True]


# --- prediction engine -----------------------------------------------------------------------------------------------


def test_engine_by_hand():
    """At exit 2 of 4: k = 1 looks at theta_3, k = 2 and k = 3 at theta_4."""
    logits = np.array([[1.0, 0.0, 0.0, 2.0]], dtype=np.float32)
    smoothed = [[1.0, 1.0, 2.0, 2.0], [2.0, 4.0, 5.0, 4.0], [6.0, 11.0, 13.0, 9.0]]
    thresholds = np.array([100.0, 100.0, 2.0, 5.0])
    expected = [max(smoothed[0]) / 2, max(smoothed[1]) / 5, max(smoothed[2]) / 5]
    ratios = jump_ratios(logits, thresholds, 2, 3)
    assert ratios.tolist() == [expected]
    assert predicted_jumps(ratios, 0.5).tolist() == [1]
    assert predicted_jumps(ratios, 1.0).tolist() == [3]  # r^1 = r^2 = 1 is not more than 1
    assert predicted_jumps(ratios, 2.6).tolist() == [3]  # nothing is: K_max
    assert predicted_jumps(ratios[:, :2], 2.6).tolist() == [2]


def test_smoothing_keeps_signs():
    """Opposite neighbours cancel; the absolute value is taken last."""
    assert jump_ratios(np.array([[3.0, -3.0]], dtype=np.float32), np.ones(2), 1, 2).tolist() == [[0.0, 0.0]]
    assert jump_ratios(np.array([[-3.0, -4.0]], dtype=np.float32), np.ones(2), 1, 1).tolist() == [[7.0]]


@given(traces(), st.integers(1, 8), st.data())
@examples(60)
def test_engine_equals_the_plain_twin(trace, max_jump, data):
    exit = data.draw(st.integers(1, trace.exit_count))
    beta = data.draw(betas(trace))
    expected = [engine_ratios(sample, trace.thresholds, exit, max_jump) for sample in trace.logits]
    ratios = jump_ratios(trace.logits[:, exit - 1], trace.thresholds, exit, max_jump)
    np.testing.assert_array_equal(ratios, expected)
    jumps = [engine(sample, trace.thresholds, exit, beta, max_jump) for sample in trace.logits]
    assert predicted_jumps(ratios, beta).tolist() == jumps
    assert predicted_jumps(ratios, np.full((len(jumps), 1), beta)).tolist() == jumps
    assert predicted_jumps(ratios, np.full(max_jump, beta)).tolist() == jumps
    stop = [ratio(largest(sample[exit - 1]), float(trace.thresholds[exit - 1])) for sample in trace.logits]
    assert stop_ratios(trace.logits[:, exit - 1], float(trace.thresholds[exit - 1])).tolist() == stop


def test_jumps_may_have_a_beta_by_jump_or_by_sample():
    ratios = np.array([[2.0, 4.0, 6.0], [2.0, 4.0, 6.0]])
    assert predicted_jumps(ratios, np.array([2.0, 4.0, 5.0])).tolist() == [3, 3]
    assert predicted_jumps(ratios, np.array([2.0, 3.0, 9.0])).tolist() == [2, 2]
    assert predicted_jumps(ratios, np.array([[1.0], [5.0]])).tolist() == [1, 3]


@pytest.mark.parametrize(("overshoot", "landing"), [("last_exit", 5), ("classifier", 6)])
def test_a_jump_beyond_the_last_exit(overshoot, landing):
    """From exit 3 of 5: jumps of 2 reach exit 5 by themselves, jumps of 3 and 4 overshoot."""
    policy = Predictive(1.0, max_jump=4, overshoot=overshoot)
    jump = np.array([[0, 9, 0, 0], [0, 0, 9, 0], [0, 0, 0, 0], [9, 0, 0, 0]], dtype=np.float64)
    decision = policy.decide(Ratios(np.zeros(4), jump), exit=3, exit_count=5)
    assert decision.next_exit.tolist() == [5, landing, landing, 4]
    assert decision.engine_steps.tolist() == [2, 3, 4, 1]


@pytest.mark.parametrize("overshoot", ["last_exit", "classifier"])
def test_at_the_last_exit_and_at_a_stop_no_engine_runs(overshoot):
    policy = Predictive(1.0, max_jump=2, overshoot=overshoot)
    ratios = Ratios(np.array([0.5, 1.0]), np.full((2, 2), 9.0))
    last = policy.decide(ratios, exit=5, exit_count=5)
    assert last.next_exit[0] == 6
    assert last.engine_steps.tolist() == [0, 0]
    assert policy.decide(ratios, exit=4, exit_count=5).engine_steps.tolist() == [1, 0]


# --- one beta for each exit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [Hierarchical, Predictive, lambda beta: Placed(beta, [1, 3])])
def test_an_exit_stops_at_its_own_beta(build):
    policy = build((1.0, 9.0, 2.0))
    ratios = Ratios(np.array([1.0, 1.5, 2.0]), np.zeros((3, policy.max_jump)))
    assert policy.decide(ratios, exit=1, exit_count=3).stop.tolist() == [True, True, True]
    assert policy.decide(ratios, exit=3, exit_count=3).stop.tolist() == [False, False, True]


def test_the_engine_compares_with_the_beta_of_the_exit_that_it_looks_at():
    """From exit 2 of 4: k = 1 with that of exit 3, k = 2 and k = 3 with that of exit 4."""
    policy = Predictive((0.5, 9.0, 3.0, 2.0), max_jump=3)
    jump = np.array([[3.0, 2.5, 0.0], [3.5, 0.0, 0.0], [3.0, 2.0, 2.5], [3.0, 2.0, 2.0]])
    decision = policy.decide(Ratios(np.zeros(4), jump), exit=2, exit_count=4)
    assert decision.engine_steps.tolist() == [2, 1, 3, 3]


def test_the_betas_of_rows_override_those_of_exits():
    ratios = Ratios(np.array([2.0, 2.0]), np.array([[2.0, 9.0], [2.0, 9.0]]))
    for policy in (
        Hierarchical((7.0, 7.0, 7.0)),
        Placed((7.0, 7.0, 7.0), [1]),
        Predictive((7.0, 7.0, 7.0), max_jump=2),
    ):
        decision = policy.decide(ratios, exit=1, exit_count=3, beta=np.array([2.0, 2.5]))
        assert decision.stop.tolist() == [True, False]
    assert decision.engine_steps.tolist() == [0, 2]


def test_betas_in_any_sequence_become_a_tuple_that_compares_and_hashes():
    policies = [Hierarchical(betas) for betas in ((1.0, 2.0), [1, 2], np.array([1.0, 2.0]))]
    assert {policy.beta for policy in policies} == {(1.0, 2.0)}
    assert len(set(policies)) == 1
    assert Hierarchical(np.float64(2.0)).first_exit(5) == 1


def test_betas_of_exits():
    assert betas_of(2.0, 3).tolist() == [2, 2, 2]
    assert betas_of((1.0, 2.0, 3.0), 3).tolist() == [1, 2, 3]
    with pytest.raises(UserError, match=r"2 betas.* 3 exits"):
        betas_of((1.0, 2.0), 3)


@pytest.mark.parametrize(
    ("policy", "tried"),
    [
        (Hierarchical(1.0), (1, 2, 3, 4)),
        (Hierarchical(1.0, 3), (3, 4)),
        (Hierarchical(1.0, 4), (4,)),
        (Placed(1.0, [2, 4]), (2, 4)),
        (Static(3), (3,)),
        (Classic(), ()),
        (Predictive(1.0), None),
    ],
)
def test_the_path_of_a_policy(policy, tried):
    assert policy.path(4) == tried


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, -1.0, nan, (1.0, 0.0), [nan, 1.0], np.array([1.0, -1.0])])
@pytest.mark.parametrize("build", [Hierarchical, Predictive, lambda beta: Placed(beta, [1])])
def test_a_beta_that_is_not_positive_is_refused(build, beta):
    with pytest.raises(UserError, match="beta > 0"):
        build(beta)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Placed(1.0, []),
        lambda: Placed(1.0, [2, 1]),
        lambda: Placed(1.0, [1, 1]),
        lambda: Predictive(1.0, max_jump=0),
        lambda: Predictive(1.0, overshoot="stay"),
        lambda: Static(0).first_exit(4),
        lambda: Static(5).first_exit(4),
        lambda: Hierarchical(1.0, 0).first_exit(4),
        lambda: Hierarchical(1.0, 5).first_exit(4),
        lambda: Predictive(1.0, 0).first_exit(4),
        lambda: Predictive(1.0, 5).first_exit(4),
        lambda: Placed(1.0, [0, 1]).first_exit(4),
        lambda: Placed(1.0, [1, 5]).first_exit(4),
        lambda: Hierarchical((1.0,) * 3).first_exit(4),
        lambda: Placed((1.0,) * 5, [1]).first_exit(4),
        lambda: Predictive(()).first_exit(4),
    ],
)
def test_impossible_settings_are_refused_in_one_line(build):
    with pytest.raises(UserError) as error:
        build()
    assert "\n" not in str(error.value)


def test_first_exits():
    assert Classic().first_exit(4) == 5
    assert Static(4).first_exit(4) == 4
    assert Hierarchical(1.0, 4).first_exit(4) == 4
    assert Predictive(1.0, 2).first_exit(4) == 2
    assert Placed(1.0, [2, 4]).first_exit(4) == 2


def test_every_policy_has_its_name_and_interface():
    assert {name: kind.name for name, kind in POLICIES.items()} == {name: name for name in POLICIES}
    assert list(POLICIES.values())[:5] == [Classic, Static, Hierarchical, Placed, Predictive]
    for policy in (Classic(), Static(1), Hierarchical(1.0), Placed(1.0, [1]), Predictive(1.0)):
        assert isinstance(policy, Policy)
        assert policy.criterion == "logit"
    assert Predictive(1.0).max_jump == 8
