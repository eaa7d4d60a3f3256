"""Optimal stopping as a policy: what its tables decide, and how a row of a table holds them."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import examples
from support.random_traces import stopping_rules, traces

from study import Trace, UserError, replay, tally
from study.policies.decision_table import table_for
from study.policies.optimal_stopping import STOP, ExitTable, OptimalStopping, decision_flops, ladder
from study.policies.policies import HeadThresholds, policy_from_row

RULE = OptimalStopping(2, {2: ExitTable((0.5, 2.0), (6, 4, STOP)), 4: ExitTable((1.0,), (6, STOP))}, 0.25)
"""Of a network with five exits."""
GOOD = json.loads(RULE.to_row()["rule"])


def plain_walk(scores, policy, exits):
    """(exit, heads tried) of one sample, in plain Python."""
    exit, tried = policy.first, []
    while exit <= exits:
        tried.append(exit)
        table = policy.tables[exit]
        action = table.actions[sum(float(scores[exit - 1]) >= bound for bound in table.bounds)]
        if action == STOP:
            break
        exit = action
    return exit, tried


@given(trace=traces(), data=st.data())
@examples(60)
def test_replay_and_tally_follow_the_tables(trace, data):
    policy, exits = data.draw(stopping_rules(trace)), trace.exit_count
    scores = table_for(trace, policy).stop
    expected = [plain_walk(row, policy, exits) for row in scores]
    walk, count = replay(trace, policy), tally(trace, policy)
    assert walk.exit_index.tolist() == [exit for exit, _ in expected]
    assert [(np.flatnonzero(row) + 1).tolist() for row in walk.tried] == [tried for _, tried in expected]
    assert walk.predictions.tolist() == trace.answers[np.arange(len(scores)), walk.exit_index - 1].tolist()
    assert not walk.engine_steps.any()
    assert count.stopped.tolist() == np.bincount(walk.exit_index, minlength=exits + 2)[1:].tolist()
    assert count.right == (walk.predictions == trace.labels).sum()


def test_a_walk_by_hand():
    """Two classes with a difference of logits d have the score ln((1 + e^d) / 2): 0, 0.62, 2.33 for 0, 1, 3."""
    gaps = np.array([[9, 0, 9, 0, 9, 9], [9, 1, 9, 0, 9, 9], [9, 1, 9, 3, 9, 9], [9, 3, 9, 0, 9, 9]], dtype=np.float32)
    trace = Trace(np.stack([gaps, np.zeros_like(gaps)], axis=2), np.zeros(4, dtype=np.int64), np.ones(5))
    walk = replay(trace, RULE)
    assert walk.exit_index.tolist() == [6, 6, 4, 2]
    assert [(np.flatnonzero(row) + 1).tolist() for row in walk.tried] == [[2], [2, 4], [2, 4], [2]]


def test_the_heads_that_it_may_run_are_those_that_the_tables_lead_to():
    assert RULE.heads_it_may_run(5).tolist() == [False, True, False, True, False]
    assert RULE.depth(5) == 6
    stopping = OptimalStopping(
        1, {1: ExitTable((1.0,), (3, STOP)), 2: ExitTable((), (4,)), 3: ExitTable((), (STOP,))}, 1
    )
    assert stopping.depth(3) == 3
    assert stopping.heads_it_may_run(3).tolist() == [True, False, True]
    assert OptimalStopping(4, {}, 0.0).depth(3) == 4
    assert not OptimalStopping(4, {}, 0.0).heads_it_may_run(3).any()


@pytest.mark.parametrize(
    ("policy", "exits"),
    [
        (RULE, 4),
        (RULE, 6),
        (OptimalStopping(0, {}, 0.0), 3),
        (OptimalStopping(1, {}, 0.0), 3),
        (OptimalStopping(9, {}, 0.0), 3),
        (OptimalStopping(1, {1: ExitTable((1.0,), (2, STOP))}, 0.0), 3),
        (OptimalStopping(4, {4: ExitTable((), (STOP,))}, 0.0), 3),
    ],
)
def test_a_rule_of_another_network_is_refused(policy, exits):
    with pytest.raises(UserError) as error:
        policy.first_exit(exits)
    assert "\n" not in str(error.value)


@given(trace=traces(), data=st.data())
@examples(40)
def test_a_row_holds_the_rule_number_for_number(trace, data):
    policy = data.draw(stopping_rules(trace))
    row = policy.to_row()
    again = policy_from_row({**row, "beta": float("nan"), "exits": None})
    assert again == policy and hash(again) == hash(policy)
    assert again == pickle.loads(pickle.dumps(policy))
    assert again.to_row() == row
    assert row["criterion"] == "log_margin" and row["price"] == policy.price


def test_the_order_of_the_tables_does_not_matter():
    other = OptimalStopping(RULE.first, dict(reversed(RULE.tables.items())), RULE.price)
    assert other == RULE and hash(other) == hash(RULE) and other.to_row() == RULE.to_row()


def with_exit(**changes):
    return json.dumps({**GOOD, "exits": [{**GOOD["exits"][0], **changes}, GOOD["exits"][1]]})


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "no JSON",
        None,
        float("nan"),
        "[]",
        "{}",
        "7",
        json.dumps({**GOOD, "first": "2"}),
        json.dumps({**GOOD, "first": 10**30}),
        json.dumps({**GOOD, "exits": 3}),
        json.dumps({**GOOD, "exits": {"2": 1}}),
        json.dumps({**GOOD, "exits": [GOOD["exits"][0], GOOD["exits"][0]]}),
        with_exit(exit=2.0),
        with_exit(exit=True),
        with_exit(actions=[1, 4, 0]),
        with_exit(actions=[2, 4, 0]),
        with_exit(actions=[-1, 4, 0]),
        with_exit(actions=[6, 4]),
        with_exit(actions="640"),
        with_exit(bounds=[2.0, 0.5]),
        with_exit(bounds=[0.5, 0.5]),
        with_exit(bounds=[0.5, None]),
        with_exit(bounds=["0.5", 2.0]),
        with_exit(bounds="12"),
        with_exit(bounds=[0.5, 10**400]),
        with_exit(bounds=[0.5, float("nan")]),
        with_exit(bounds=[0.5, float("inf")]),
        "[" * 10_000,
    ],
)
def test_a_damaged_rule_is_refused_in_one_line(rule):
    with pytest.raises(UserError, match="rule") as error:
        policy_from_row({**RULE.to_row(), "rule": rule})
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("price", [float("nan"), -1.0, float("inf"), None, "much"])
def test_an_impossible_price_is_refused(price):
    with pytest.raises(UserError):
        policy_from_row({**RULE.to_row(), "price": price})


def test_a_row_without_the_columns_is_refused():
    for name in ("rule", "price"):
        row = {key: value for key, value in RULE.to_row().items() if key != name}
        with pytest.raises(UserError):
            policy_from_row(row)


def test_a_ladder_walks_as_thresholds_of_each_head_do():
    random = np.random.default_rng(0)
    logits = random.normal(size=(200, 6, 4)).astype(np.float32)
    trace = Trace(logits, random.integers(0, 4, 200), np.ones(5))
    thresholds = np.array([np.inf, 0.8, np.inf, 0.4, 0.2])
    rule, placed = ladder(thresholds, 0.5), HeadThresholds(thresholds, (2, 4, 5), "log_margin", price=0.5)
    walk, other = replay(trace, rule), replay(trace, placed)
    assert walk.exit_index.tolist() == other.exit_index.tolist()
    assert walk.tried.tolist() == other.tried.tolist()
    assert len(set(walk.exit_index.tolist())) == 4
    assert ladder(np.full(5, np.inf), 0.5) == OptimalStopping(6, {}, 0.5)


def test_a_decision_counts_its_operations():
    assert decision_flops(10) == 50 + 2 + 4
    assert decision_flops(1000, actions=1) == 5002
