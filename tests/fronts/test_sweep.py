"""Sweeps: every operating point of every start layer, exactly, however the work is cut."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import examples
from support.plain_twins import betas_about, telling_betas
from support.random_traces import learned_trace, rounded_costs, rules, traces, whole_costs

from study import Classic, Costs, Hierarchical, Placed, Predictive, Static, Trace, UserError, exact_front, replay, tally
from study import arrays as threads
from study.fronts import sweep as sweeps
from study.fronts.exact import front_of_sweeps
from study.fronts.sweep import Sweep, changes, changes_by_walking
from study.policies.criteria import CRITERIA
from study.policies.decision_table import table_for

BOTH = ("flops", "energy")
THREE = ("accuracy", *BOTH)
ADDITIVE = [criterion for criterion in CRITERIA if criterion != "patience"]
small = traces(max_samples=4, max_exits=5, max_classes=3)


def points_of(sweep, measures=BOTH):
    """The operating points of each start layer."""
    return [found.add_up() for group in changes(sweep, measures) for found in group]


def assert_same(points, others) -> None:
    """Equal to the last bit, units included."""
    assert [one.start_layer for one in points] == [one.start_layer for one in others]
    for one, other in zip(points, others, strict=True):
        for name in ("beta_high", "beta_low", "right", "sums", "units"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


EVERY_RULE = [
    Predictive(1.0, max_jump=3),
    Predictive(1.0, max_jump=3, overshoot="classifier"),
    *(Hierarchical(1.0, 1, criterion) for criterion in CRITERIA),
    Placed(1.0, [2, 3, 6], "margin"),
]
every_rule = pytest.mark.parametrize("rule", EVERY_RULE, ids=str)


# --- every operating point -------------------------------------------------------------------------------------------


@given(small, st.data())
@examples(100)
def test_points_are_what_every_beta_of_their_interval_gives_and_neighbours_differ(trace, data):
    rule, costs = data.draw(rules(trace)), data.draw(whole_costs(trace.exit_count))
    sweep = Sweep(trace, costs, rule)
    for points in points_of(sweep):
        policy = sweep.policy(1.0, points.start_layer)
        scores = np.unique(table_for(trace, policy).stop)
        asked = telling_betas(trace, rule.max_jump) if rule.max_jump else betas_about(scores)
        assert points.beta_high[0] == inf
        assert (np.diff(points.beta_high) < 0).all()
        assert (points.beta_high > 0).all()
        for beta in asked:
            place = np.flatnonzero(points.beta_high >= beta)[-1]
            count = tally(trace, replace(policy, beta=beta))
            assert points.right[place] == count.right
            expected = [costs.mean(count, measure) * count.samples for measure in BOTH]
            assert (points.sums[place] * points.units).tolist() == pytest.approx(expected, rel=1e-14)
        reached = {int(np.flatnonzero(points.beta_high >= beta)[-1]) for beta in asked}
        assert reached == set(range(len(points.right)))
        table = np.column_stack([points.right, points.sums])
        assert (table[1:] != table[:-1]).any(axis=1).all()


@given(small, st.data())
@examples(150)
def test_compiled_changes_are_those_of_walking_for_every_start_layer(trace, data):
    """Costs in whole numbers have the same units and sums in both."""
    sweep = Sweep(trace, data.draw(whole_costs(trace.exit_count)), data.draw(rules(trace, ADDITIVE)))
    walked = [changes_by_walking(sweep, BOTH, layer).add_up() for layer in sweep.start_layers]
    assert_same(points_of(sweep), walked)


@pytest.mark.parametrize("rule", [rule for rule in EVERY_RULE if rule.criterion in ADDITIVE], ids=str)
def test_with_rounded_costs_both_ways_differ_by_rounding_alone(rule):
    trace, costs = learned_trace(60), rounded_costs()
    sweep = Sweep(trace, costs, rule)
    for points in points_of(sweep):
        walked = changes_by_walking(sweep, BOTH, points.start_layer).add_up()
        assert len(points.right) > 10 or rule.criterion == "oracle"
        place = np.searchsorted(-walked.beta_high, -points.beta_high, side="right") - 1
        np.testing.assert_array_equal(walked.right[place], points.right)
        np.testing.assert_allclose(walked.sums[place] * walked.units, points.sums * points.units, rtol=1e-12)


# --- costs as whole numbers ------------------------------------------------------------------------------------------


@every_rule
def test_the_order_of_samples_leaves_every_point_as_it_is_to_the_last_bit(rule):
    """Floats added up in another order would differ."""
    trace, costs = learned_trace(60), rounded_costs()
    order = np.random.default_rng(3).permutation(len(trace.labels))
    shuffled = replace(trace, logits=trace.logits[order], labels=trace.labels[order])
    assert_same(points_of(Sweep(shuffled, costs, rule)), points_of(Sweep(trace, costs, rule)))
    front = exact_front({"first": (trace, costs), "second": (shuffled, costs)}, objectives=THREE, max_jump=3)
    assert set(front["network"]) == {"first"}


def test_costs_equal_on_paper_in_another_order_of_segments_are_one_point():
    """0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ as float64; only the classifier is right."""
    logits = np.zeros((3, 3, 2), dtype=np.float32)
    logits[:, :2, 0] = logits[:, 2, 1] = 1.0
    trace = Trace(logits=logits, labels=np.ones(3, dtype=np.int64), thresholds=np.ones(2))
    rising = Costs(segment_flops=[0.1, 0.2, 0.3], head_flops=[0.7, 0.0])
    falling = Costs(segment_flops=[0.3, 0.2, 0.1], head_flops=[0.7, 0.0])
    assert sum(rising.segment_flops) != sum(falling.segment_flops)
    for one, other in ((rising, falling), (falling, rising)):
        front = exact_front({"one": (trace, one), "other": (trace, other)}, start_layers=[2])
        best = front[front["accuracy"] == 1]
        assert best["network"].tolist() == ["one"]
        assert best["flops"].tolist() == pytest.approx([0.6], rel=1e-15)


@every_rule
@pytest.mark.parametrize("power", [-900, -60, 60, 900])
def test_costs_of_any_size_change_nothing_but_the_unit(rule, power):
    trace, costs = learned_trace(20), rounded_costs()
    names = [f"{part}_{measure}" for measure in BOTH for part in ("segment", "head", "engine_step")]
    scaled = replace(costs, **{name: getattr(costs, name) * 2.0**power for name in names})
    for points, other in zip(points_of(Sweep(trace, costs, rule)), points_of(Sweep(trace, scaled, rule)), strict=True):
        np.testing.assert_array_equal(other.sums, points.sums)
        np.testing.assert_array_equal(other.right, points.right)
        np.testing.assert_array_equal(other.units, points.units * 2.0**power)


def test_units_are_so_fine_that_only_the_last_bits_of_a_sum_are_lost():
    trace, costs = learned_trace(60), rounded_costs()
    for points in points_of(Sweep(trace, costs, Predictive(1.0))):
        assert (points.sums >= 0).all()
        assert (points.sums.max(axis=0) < 2**62).all()
        assert (points.sums.max(axis=0) > 2**52).all()
        np.testing.assert_array_equal(np.frexp(points.units)[0], 0.5)


def test_costs_of_0_make_points_that_differ_in_right_answers_alone():
    costs = Costs(segment_flops=np.zeros(7), head_flops=np.zeros(6))
    for points in points_of(Sweep(learned_trace(60), costs, Hierarchical(1.0)), ("flops",)):
        assert not points.sums.any()
        assert (np.diff(points.right) != 0).all()


@pytest.mark.filterwarnings("error")
def test_a_dear_engine_means_nothing_to_a_rule_that_has_none():
    """Not even where all that such a rule pays for is small beside it."""
    trace = learned_trace(60)
    cheap = Costs(segment_flops=np.ones(7), head_flops=np.ones(6), engine_step_flops=1e6)
    for rule in (Hierarchical(1.0), Placed(1.0, [1, 3])):
        without = Sweep(trace, replace(cheap, engine_step_flops=0.0), rule)
        assert_same(points_of(Sweep(trace, cheap, rule), ("flops",)), points_of(without, ("flops",)))


# --- values of one's own ---------------------------------------------------------------------------------------------


@given(small, st.data())
@examples(60)
def test_a_sweep_with_values_gives_what_the_measures_that_it_computes_give(trace, data):
    rule, costs = data.draw(rules(trace)), data.draw(whole_costs(trace.exit_count))
    asked = []

    def values(walk, policy):
        asked.append(policy)
        return np.column_stack([costs.per_sample(walk, measure) for measure in BOTH])

    plain, own = Sweep(trace, costs, rule), Sweep(trace, costs, rule, values=values)
    for points, other in zip(points_of(plain), points_of(own), strict=True):
        assert points.start_layer == other.start_layer
        for name in ("beta_high", "right"):
            np.testing.assert_array_equal(getattr(points, name), getattr(other, name))
        np.testing.assert_array_equal(points.sums * points.units, other.sums * other.units)
    assert {policy.first_exit(trace.exit_count) for policy in asked} == set(plain.start_layers)
    assert front_of_sweeps([own], THREE).equals(front_of_sweeps([plain], THREE))


def test_values_may_depend_on_the_whole_walk():
    """Twice as dear where exactly one head ran: no sum of parts."""
    trace, costs = learned_trace(60), Costs(segment_flops=np.ones(7), head_flops=np.ones(6))

    def values(walk, policy):
        return (walk.exit_index * np.where(walk.heads_run == 1, 2.0, 1.0))[:, None]

    rule = Predictive(1.0, max_jump=3)
    for points in points_of(Sweep(trace, costs, rule, values=values), ("flops",)):
        assert len(points.right) > 20
        for high, right, total in zip(points.beta_high, points.right, points.sums[:, 0] * points.units, strict=True):
            count = tally(trace, replace(rule, beta=high, start_layer=points.start_layer))
            walk = replay(trace, replace(rule, beta=high, start_layer=points.start_layer))
            assert right == count.right
            assert total == values(walk, None).sum()


# --- however the work is cut -----------------------------------------------------------------------------------------


def front(sweep):
    return front_of_sweeps([sweep], THREE)


@every_rule
def test_few_changes_held_at_a_time_give_the_same(rule, monkeypatch):
    sweep = Sweep(learned_trace(60), rounded_costs(), rule)
    points, expected = points_of(sweep), front(sweep)
    for at_once in (1, 100, 500):
        monkeypatch.setattr(sweeps, "AT_ONCE", at_once)
        assert_same(points_of(sweep), points)
        assert front(sweep).equals(expected)


@every_rule
@pytest.mark.parametrize("cores", [1, 2, 3])
def test_slices_and_threads_give_the_same(rule, cores, monkeypatch):
    sweep = Sweep(learned_trace(60), rounded_costs(), rule)
    points, expected = points_of(sweep), front(sweep)
    counts = [vars(tally(sweep.trace, replace(rule, beta=beta))) for beta in (0.5, 2.0, 8.0)]
    assert len(threads.slices(60)) == 1
    monkeypatch.setattr(threads, "SMALLEST_SLICE", 1)
    monkeypatch.setattr(threads, "thread_count", lambda: cores)
    assert len(threads.slices(60)) == 4 * cores
    again = replace(sweep, trace=replace(sweep.trace))  # computes its scores anew
    assert_same(points_of(again), points)
    assert front(again).equals(expected)
    for beta, count in zip((0.5, 2.0, 8.0), counts, strict=True):
        for name, value in vars(tally(again.trace, replace(rule, beta=beta))).items():
            np.testing.assert_array_equal(value, count[name], err_msg=name)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 10), st.integers(1, 4))
def test_slices_cover_all_samples_once(samples, cores, piece, each):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "SMALLEST_SLICE", piece)
        patch.setattr(threads, "thread_count", lambda: cores)
        cut = threads.slices(samples, each=each)
        covered = [place for one in cut for place in range(one.start, one.stop)]
        assert covered == list(range(samples))
        assert len(cut) <= max(1, each * cores)
        assert all(one.stop - one.start >= min(piece, samples) for one in cut)
        assert threads.share(lambda one: one, samples, each=each) == cut


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [Classic(), Static(1)])
def test_a_rule_without_beta_is_refused(rule):
    with pytest.raises(UserError, match="needs a policy with a beta"):
        Sweep(learned_trace(60), rounded_costs(), rule)


@pytest.mark.parametrize(
    ("rule", "layers", "message"),
    [
        (Hierarchical(1.0), [], "at least one"),
        (Hierarchical(1.0), [1, 7], "1 to 6"),
        (Predictive(1.0), [0], "1 to 6"),
        (Placed(1.0, [2, 7]), None, "1 to 6"),
    ],
)
def test_exits_that_are_not_there_are_refused(rule, layers, message):
    with pytest.raises(UserError, match=message):
        Sweep(learned_trace(60), rounded_costs(), rule, layers)


def test_measures_that_the_costs_do_not_hold_are_refused():
    costs = Costs(segment_flops=np.ones(7), head_flops=np.ones(6))
    for rule in EVERY_RULE:
        with pytest.raises(UserError, match="seconds"):
            points_of(Sweep(learned_trace(60), costs, rule), ("flops", "seconds"))


@pytest.mark.parametrize("rule", [Predictive(1.0, 8), Hierarchical(1.0, 8), Hierarchical(1.0, 8, "patience")], ids=str)
def test_the_start_layer_of_the_rule_itself_is_left_aside(rule):
    trace, costs = learned_trace(60), rounded_costs()
    expected = points_of(Sweep(trace, costs, replace(rule, start_layer=1), [2, 3]))
    assert_same(points_of(Sweep(trace, costs, rule, [2, 3])), expected)


def test_the_betas_of_the_rule_itself_are_left_aside():
    trace, costs = learned_trace(60), rounded_costs()
    own = Sweep(trace, costs, Predictive((1.0, 2.0), max_jump=3))
    assert_same(points_of(own), points_of(Sweep(trace, costs, Predictive(5.0, max_jump=3))))


@given(small, st.data())
@examples(60)
def test_the_changes_of_patience_are_those_of_walking(trace, data):
    layer = data.draw(st.integers(1, trace.exit_count))
    sweep = Sweep(trace, data.draw(whole_costs(trace.exit_count)), Hierarchical(1.0, layer, "patience"), [layer])
    assert_same(points_of(sweep), [changes_by_walking(sweep, BOTH, layer).add_up()])
