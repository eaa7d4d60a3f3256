"""Replay: equal to the plain twin, and the laws that it obeys."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import examples
from support.plain_twins import engine_ratios, plain_cost, plain_walks, stops
from support.random_traces import betas, learned_trace, policies, tied_policies, traces, whole_costs

from study import Classic, Hierarchical, Placed, Predictive, Static, Trace, UserError, replay, tally
from study.policies.base import Decision, Policy, betas_of
from study.policies.criteria import CRITERIA
from study.policies.decision_table import ratio_table, table_for
from study.policies.replay import Walk, walk_samples

KINDS = ["classic", "static", "hierarchical", "placed", "predictive"]
RULES = [(kind, "logit") for kind in KINDS] + [
    (kind, criterion) for criterion in CRITERIA if criterion != "logit" for kind in ("hierarchical", "placed")
]
FIELDS = ("exit_index", "predictions", "tried", "engine_steps", "heads_run")


def same(walk, other) -> bool:
    """Whether two walks are equal in every field."""
    return all(np.array_equal(getattr(walk, name), getattr(other, name)) for name in FIELDS)


def on_arrays(trace, policy) -> Walk:
    """The walk of :func:`walk_samples`, the compiled loop's twin."""
    everyone = np.arange(len(trace.labels))
    first = np.full_like(everyone, policy.first_exit(trace.exit_count))
    return walk_samples(trace, table_for(trace, policy).up_to(policy.max_jump), policy, everyone, first)


def steady(**changes) -> Trace:
    """3 samples, 2 exits, 2 classes; `changes` replace a field."""
    fields = {
        "logits": np.arange(18, dtype=np.float32).reshape(3, 3, 2),
        "labels": np.array([0, 1, 1]),
        "thresholds": np.ones(2, dtype=np.float32),
    }
    return Trace(**(fields | changes))


def refusing(policy, message) -> None:
    """Check that neither way to replay a policy takes it."""
    for ask in (replay, tally):
        with pytest.raises(UserError, match=message) as error:
            ask(steady(), policy)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("policy", [Static(3), Hierarchical(1.0, 3), Placed(1.0, [1, 3]), Predictive(1.0, 0)])
def test_an_exit_that_the_trace_lacks_is_refused(policy):
    refusing(policy, "1 to 2")


@pytest.mark.parametrize("beta", [(), (1.0,), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize(
    "policy", [Hierarchical(1.0), Hierarchical(1.0, 1, "patience"), Placed(1.0, [1]), Predictive(1)]
)
def test_betas_that_are_neither_one_nor_one_for_each_exit_are_refused(policy, beta):
    refusing(replace(policy, beta=beta), f"{len(beta)} betas.* 2 exits")


# --- replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "criterion"), RULES)
@given(trace=traces(), data=st.data())
@examples(35)
def test_replay_equals_the_plain_twin(kind, criterion, trace, data):
    policy = data.draw(policies(trace, kinds=[kind], criteria=[criterion], own=True))
    walk, twins = replay(trace, policy), plain_walks(trace, policy)
    assert walk.exit_index.tolist() == [twin.exit for twin in twins]
    assert walk.predictions.tolist() == [twin.answer for twin in twins]
    assert [(np.flatnonzero(row) + 1).tolist() for row in walk.tried] == [twin.tried for twin in twins]
    assert walk.heads_run.tolist() == [len(twin.tried) for twin in twins]
    assert walk.engine_steps.tolist() == [twin.steps for twin in twins]
    right = sum(twin.answer == label for twin, label in zip(twins, trace.labels, strict=True))
    assert walk.accuracy(trace.labels) == right / len(twins)


def telling_policies(trace, kind, criterion, count):
    """Policies that send samples to many exits; every other one has a beta for each exit."""
    random = np.random.default_rng(6)
    exits = trace.exit_count
    for number in range(count):
        start, chosen = int(random.integers(1, 4)), (np.flatnonzero(random.random(exits) < 0.6) + 1).tolist() or [1]
        policy = {
            "hierarchical": Hierarchical(1.0, start, criterion),
            "placed": Placed(1.0, chosen, criterion),
            "predictive": Predictive(1.0, start, 1 + number % 8, ("last_exit", "classifier")[number // 2 % 2]),
        }[kind]
        if criterion in ("patience", "oracle"):
            own = random.integers(1, 4, exits)
        else:
            scores = table_for(trace, policy).scores[:, :, : 1 + number % 3]
            own = random.uniform(*np.quantile(scores, [0.4, 0.95]), exits)
        yield replace(policy, beta=own if number % 2 else float(own[0]))


@pytest.mark.parametrize(
    ("kind", "criterion"), [(kind, name) for kind, name in RULES if kind not in ("classic", "static")]
)
def test_on_a_larger_trace_compiled_walk_array_walk_and_plain_twin_are_the_same(kind, criterion):
    trace, seen = learned_trace(40), set()
    for policy in telling_policies(trace, kind, criterion, 12):
        walk, twins = replay(trace, policy), plain_walks(trace, policy)
        assert same(walk, on_arrays(trace, policy))
        assert walk.exit_index.tolist() == [twin.exit for twin in twins]
        assert [(np.flatnonzero(row) + 1).tolist() for row in walk.tried] == [twin.tried for twin in twins]
        assert walk.engine_steps.tolist() == [twin.steps for twin in twins]
        count, again = tally(trace, policy), walk.tally(trace.labels)
        assert count.stopped.tolist() == again.stopped.tolist()
        assert (count.right, count.engine_steps) == (again.right, again.engine_steps)
        seen.update(walk.exit_index)
    assert len(seen) > 5  # of 7 ends


@pytest.mark.parametrize("criterion", CRITERIA)
@given(trace=traces(), data=st.data())
@examples(30)
def test_a_sample_stops_at_the_first_exit_whose_score_reaches_its_beta(criterion, trace, data):
    """At the scores themselves, whose last bits no formula on paper knows."""
    policy = data.draw(tied_policies(trace, [criterion]))
    exits = trace.exit_count
    scores, beta = table_for(trace, policy).stop, betas_of(policy.beta, exits)
    reached = [[exit for exit in policy.path(exits) if row[exit - 1] >= beta[exit - 1]] for row in scores]
    expected = [min(stop_here, default=exits + 1) for stop_here in reached]
    assert replay(trace, policy).exit_index.tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
@given(trace=traces(), data=st.data())
@examples(40)
def test_the_compiled_walk_equals_the_one_on_arrays(kind, trace, data):
    some = policies(trace, kinds=[kind], criteria=CRITERIA, own=True)
    policy = data.draw(st.one_of(some, tied_policies(trace)) if kind == "placed" else some)
    assert same(replay(trace, policy), on_arrays(trace, policy))


@pytest.mark.parametrize("kind", KINDS)
@given(trace=traces(), data=st.data())
@examples(30)
def test_a_tally_is_the_replay_counted(kind, trace, data):
    some = policies(trace, kinds=[kind], criteria=CRITERIA, own=True)
    policy = data.draw(st.one_of(some, tied_policies(trace)) if kind == "placed" else some)
    costs = data.draw(whole_costs(trace.exit_count))
    walk, count = replay(trace, policy), tally(trace, policy)
    exits = range(1, trace.exit_count + 1)
    assert count.samples == len(trace.labels)
    assert count.right == (walk.predictions == trace.labels).sum()
    shares = [(walk.predictions == trace.labels)[trace.labels == one].mean() for one in np.unique(trace.labels)]
    assert count.balanced_accuracy == pytest.approx(np.mean(shares))
    assert count.stopped.tolist() == [(walk.exit_index == exit).sum() for exit in (*exits, trace.exit_count + 1)]
    assert count.tried.tolist() == [walk.tried[:, exit - 1].sum() for exit in exits]
    assert count.engine_steps == walk.engine_steps.sum()
    assert count.accuracy == walk.accuracy(trace.labels)
    assert costs.mean(count, "energy") == costs.per_sample(walk, "energy").sum() / len(trace.labels)
    again = walk.tally(trace.labels)
    assert (again.samples, again.right, again.engine_steps) == (count.samples, count.right, count.engine_steps)
    assert again.balanced_accuracy == count.balanced_accuracy
    np.testing.assert_array_equal(again.stopped, count.stopped)
    np.testing.assert_array_equal(again.tried, count.tried)


@given(trace=traces(), data=st.data())
@examples(60)
def test_rows_with_their_own_sample_beta_and_first_exit_walk_as_if_alone(trace, data):
    rule = data.draw(policies(trace, kinds=["hierarchical", "predictive"]))
    row = st.tuples(st.integers(0, len(trace.labels) - 1), st.integers(1, trace.exit_count), betas(trace))
    rows = data.draw(st.lists(row, min_size=1, max_size=6))
    samples, first, beta = (np.array(column) for column in zip(*rows, strict=True))
    walk = walk_samples(trace, ratio_table(trace, rule.max_jump), rule, samples, first, beta=beta)
    for place, (sample, start, own) in enumerate(rows):
        alone = replay(trace, replace(rule, beta=own, start_layer=start))
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(walk, name)[place], getattr(alone, name)[sample])


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
@examples(60)
def test_hierarchical_is_placed_on_all_exits_from_the_start(trace, data):
    start, beta = data.draw(st.integers(1, trace.exit_count)), data.draw(betas(trace))
    placed = replay(trace, Placed(beta, range(start, trace.exit_count + 1)))
    assert same(replay(trace, Hierarchical(beta, start)), placed)


# --- laws ------------------------------------------------------------------------------------------------------------


@given(traces(), st.data())
@examples(60)
def test_equal_betas_for_all_exits_are_the_one_beta(trace, data):
    policy = data.draw(policies(trace, kinds=["hierarchical", "placed", "predictive"], criteria=CRITERIA))
    assert same(replay(trace, policy), replay(trace, replace(policy, beta=(policy.beta,) * trace.exit_count)))


@given(traces(), st.data())
@examples(60)
def test_the_beta_of_an_exit_that_is_never_tried_does_not_matter(trace, data):
    """Nor does one before the start layer to the engine, which looks ahead."""
    policy = data.draw(policies(trace, kinds=["hierarchical", "placed", "predictive"], criteria=CRITERIA))
    first = policy.first_exit(trace.exit_count)
    idle = set(range(1, trace.exit_count + 1)) - set(policy.exits) if isinstance(policy, Placed) else range(1, first)
    others = [data.draw(betas(trace)) if exit in idle else policy.beta for exit in range(1, trace.exit_count + 1)]
    assert same(replay(trace, policy), replay(trace, replace(policy, beta=others)))


@pytest.mark.parametrize("criterion", CRITERIA)
@given(trace=traces(), data=st.data())
@examples(25)
def test_walks_without_engine_never_get_shorter_as_betas_grow(criterion, trace, data):
    policy, other = (data.draw(tied_policies(trace, [criterion])) for _ in range(2))
    pair = [betas_of(one.beta, trace.exit_count) for one in (policy, other)]
    shorter = replay(trace, replace(policy, beta=np.minimum(*pair)))
    longer = replay(trace, replace(policy, beta=np.maximum(*pair)))
    assert (shorter.exit_index <= longer.exit_index).all()
    assert (shorter.tried <= longer.tried).all()


@given(traces(), st.data())
@examples(60)
def test_no_criterion_is_right_more_often_or_sooner_than_the_oracle(trace, data):
    policy = data.draw(policies(trace, kinds=["hierarchical", "placed"], criteria=CRITERIA, own=True))
    walk, ideal = replay(trace, policy), replay(trace, replace(policy, beta=1.0, criterion="oracle"))
    right = walk.predictions == trace.labels
    assert (ideal.predictions == trace.labels)[right].all()
    assert (ideal.exit_index <= walk.exit_index)[right].all()


@given(traces(), st.data())
@examples(60)
def test_costs_per_sample_are_the_explicit_sum(trace, data):
    policy = data.draw(policies(trace, criteria=["logit", "patience", "oracle"], own=True))
    costs = data.draw(whole_costs(trace.exit_count))
    walk, twins = replay(trace, policy), plain_walks(trace, policy)
    flops = [plain_cost(twin, costs.segment_flops, costs.head_flops, costs.engine_step_flops) for twin in twins]
    energy = [plain_cost(twin, costs.segment_energy, costs.head_energy, costs.engine_step_energy) for twin in twins]
    assert costs.per_sample(walk, "flops").tolist() == flops
    assert costs.per_sample(walk, "energy").tolist() == energy
    classic = costs.per_sample(replay(trace, Classic()), "flops")
    assert classic.tolist() == [sum(costs.segment_flops)] * len(twins)


@given(traces(), st.data())
@examples(60)
def test_the_order_of_samples_does_not_matter(trace, data):
    policy = data.draw(policies(trace, criteria=CRITERIA, own=True))
    order = np.array(data.draw(st.permutations(range(len(trace.labels)))))
    walk = replay(trace, policy)
    shuffled = replay(replace(trace, logits=trace.logits[order], labels=trace.labels[order]), policy)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(walk, name)[order])


@given(traces(), st.data(), st.integers(1, 12))
@examples(60)
def test_scaling_logits_and_thresholds_by_a_power_of_two_changes_nothing(trace, data, power):
    policy = data.draw(policies(trace, criteria=["logit", "patience", "oracle"], own=True))
    factor = np.float32(2.0**power)
    scaled = replace(trace, logits=trace.logits * factor, thresholds=trace.thresholds * float(factor))
    assert same(replay(trace, policy), replay(scaled, policy))


@given(traces(), st.data())
@examples(60)
def test_a_trace_answers_alike_whatever_was_asked_before(trace, data):
    """Scores are kept between calls: another policy's must not be handed out."""
    asked = [data.draw(policies(trace, criteria=CRITERIA, own=True)) for _ in range(4)]
    for policy in asked:
        assert same(replay(trace, policy), replay(replace(trace), policy))


# --- policies from elsewhere -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Skipping(Policy):
    """Leaves out the next exit where the engine's first step comes out above beta."""

    beta: float
    max_jump: ClassVar[int] = 1
    criterion: ClassVar[str] = "logit"

    def first_exit(self, exit_count):
        return 1

    def decide(self, ratios, *, exit, exit_count, beta=None):
        assert ratios.jump.shape == (len(ratios.stop), 1)
        ahead = np.where(ratios.jump[:, 0] > self.beta, 2, 1)
        return Decision(ratios.stop >= self.beta, np.minimum(exit + ahead, exit_count + 1), np.ones_like(ahead))


@given(traces(), st.data())
@examples(60)
def test_a_policy_from_elsewhere_is_replayed_by_what_it_decides(trace, data):
    policy = Skipping(data.draw(betas(trace)))
    assert isinstance(policy, Policy)
    data.draw(st.sampled_from([lambda: None, lambda: ratio_table(trace, 8)]))()  # a wider table may be there already
    walk, count = replay(trace, policy), tally(trace, policy)
    for number, sample in enumerate(trace.logits):
        exit, tried = 1, []
        while exit <= trace.exit_count:
            tried.append(exit)
            if stops(sample, trace.thresholds, exit, policy.beta):
                break
            ahead = 2 if engine_ratios(sample, trace.thresholds, exit, 1)[0] > policy.beta else 1
            exit = min(exit + ahead, trace.exit_count + 1)
        assert walk.exit_index[number] == exit
        assert (np.flatnonzero(walk.tried[number]) + 1).tolist() == tried
        assert walk.engine_steps[number] == len(tried)
        assert walk.predictions[number] == trace.answers[number, exit - 1]
    assert count.right == (walk.predictions == trace.labels).sum()
    assert count.stopped.tolist() == np.bincount(walk.exit_index, minlength=trace.exit_count + 2)[1:].tolist()


class Doubling(Hierarchical):
    """Decides at twice its beta."""

    def decide(self, ratios, *, exit, exit_count, beta=None):
        return super().decide(ratios, exit=exit, exit_count=exit_count, beta=np.full(len(ratios.stop), 2 * self.beta))


@given(traces(), st.data())
@examples(40)
def test_a_policy_derived_from_one_of_the_package_is_replayed_by_what_it_decides(trace, data):
    beta = data.draw(betas(trace))
    expected = replay(trace, Hierarchical(2 * beta))
    assert same(replay(trace, Doubling(beta)), expected)
    assert tally(trace, Doubling(beta)).stopped.tolist() == expected.tally(trace.labels).stopped.tolist()


@dataclass(frozen=True)
class SureOfSome(Policy):
    """Tries every second exit, and stops by the margin."""

    max_jump: ClassVar[int] = 0
    criterion: ClassVar[str] = "margin"

    def first_exit(self, exit_count):
        return 1

    def decide(self, ratios, *, exit, exit_count, beta=None):
        target = np.full(len(ratios.stop), min(exit + 2, exit_count + 1))
        return Decision(ratios.stop >= 0.5, target, np.zeros_like(target))


@given(traces())
@examples(40)
def test_a_policy_from_elsewhere_may_have_any_criterion_of_a_single_exit(trace):
    expected = replay(trace, Placed(0.5, range(1, trace.exit_count + 1, 2), "margin"))
    assert same(replay(trace, SureOfSome()), expected)
