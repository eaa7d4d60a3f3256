"""Decisions of exported rules are those of the policies, on the device and in the folder's own runner."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study import Classic, Hierarchical, OptimalStopping, Placed, Predictive, Static, UserError
from study.deploy import run as runner
from study.deploy.rule import STOP, Decider, Rule, confidence
from study.export.rule import rule_of
from study.policies.base import Policy
from study.policies.criteria import Agreement
from study.policies.criteria import confidence as of_study
from study.policies.live import decide_at_exit
from study.policies.optimal_stopping import ExitTable
from study.policies.policies import HeadThresholds

EXITS, CLASSES, IMAGES = 6, 7, 400
THRESHOLDS = np.array([1.5, 0.0, 2.0, 1.0, 0.7, 1.2])
CONFIDENCES = ("max_softmax", "entropy", "margin", "log_margin")


def tables(random: np.random.Generator) -> dict[int, ExitTable]:
    found = {}
    for exit in range(1, EXITS + 1):
        actions = random.integers(exit + 1, EXITS + 2, 4)
        actions[random.integers(4)] = STOP
        found[exit] = ExitTable(tuple(np.sort(random.uniform(0, 3, 3))), tuple(actions.tolist()))
    return found


def policies() -> list[Policy]:
    random = np.random.default_rng(4)
    betas = tuple(random.uniform(0.5, 3, EXITS).tolist())
    thresholds = tuple(np.where(np.arange(EXITS) % 2, np.inf, random.uniform(0.2, 0.8, EXITS)).tolist())
    return [
        Static(3),
        Hierarchical(1.5),
        Hierarchical(betas, 2),
        *(Hierarchical(0.4, 1, criterion) for criterion in CONFIDENCES),
        Placed(1.0, [2, 3, 6]),
        Placed(0.3, [1, 4], "margin"),
        Predictive(1.2, 1, max_jump=3, overshoot="last_exit"),
        Predictive(betas, 2, max_jump=8, overshoot="classifier"),
        HeadThresholds(thresholds, [1, 3, 5], "max_softmax", price=0.1),
        OptimalStopping(1, tables(random), 0.5),
        OptimalStopping(2, tables(random), 0.5),
    ]


def some_logits() -> np.ndarray:
    random = np.random.default_rng(0)
    return (random.normal(size=(IMAGES, CLASSES)) * random.uniform(0.1, 4, (IMAGES, 1))).astype(np.float32)


@pytest.mark.parametrize("policy", policies(), ids=lambda policy: f"{policy.name}-{policy.criterion}")
def test_a_rule_decides_as_its_policy_on_the_device_and_in_the_runner(policy: Policy) -> None:
    raw, logits = rule_of(policy, THRESHOLDS), some_logits()
    rule = Rule.from_json(raw)
    decider = Decider(rule, torch.device("cpu"))
    assert rule.first == policy.first_exit(EXITS)
    assert set(rule.exits) == set(np.flatnonzero(policy.heads_it_may_run(EXITS)) + 1)
    kinds = set()
    for exit in rule.exits:
        _, decision = decide_at_exit(
            policy, logits, THRESHOLDS, exit=exit, samples=np.arange(IMAGES), agreement=Agreement(IMAGES)
        )
        expected = np.where(decision.stop, STOP, decision.next_exit)
        tensor = torch.from_numpy(logits)
        actions, steps = decider.actions(tensor, decider.scores(tensor, exit), exit)
        np.testing.assert_array_equal(actions.numpy(), expected)
        np.testing.assert_array_equal(0 if steps is None else steps.numpy(), decision.engine_steps)
        np.testing.assert_array_equal(runner_actions(logits, raw, exit), expected)
        kinds |= set(expected.tolist())
        assert set(expected.tolist()) - {STOP} <= rule.reachable
    assert policy.knows_its_end or len(kinds) > 2


def runner_actions(logits: np.ndarray, raw: dict, exit: int) -> np.ndarray:
    """The lines of the runner that decide, on one exit."""
    one = raw["exits"][str(exit)]
    scores = runner.scores_of(logits, raw["criterion"], one["threshold"])
    return runner.actions_of(logits, scores, exit, one, EXITS + 1)


@pytest.mark.parametrize("criterion", CONFIDENCES)
def test_confidences_are_those_of_the_study(criterion: str) -> None:
    logits = some_logits()
    logits[:3] = [[0.0] * CLASSES, [100.0] + [0.0] * (CLASSES - 1), [800.0] + [-800.0] * (CLASSES - 1)]
    for given in (logits, logits[:, :1], logits[:, :2]):
        expected = of_study(given, criterion)
        np.testing.assert_allclose(
            confidence(torch.from_numpy(given), criterion).numpy(), expected, rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(runner.scores_of(given, criterion, None), expected, rtol=1e-9, atol=1e-12)


def test_a_classifier_alone_and_the_oracle() -> None:
    rule = Rule.from_json(rule_of(Classic(), THRESHOLDS))
    assert (rule.first, rule.reachable, dict(rule.exits)) == (EXITS + 1, {EXITS + 1}, {})
    with pytest.raises(UserError, match="oracle knows the labels"):
        rule_of(Hierarchical(1.0, 1, "oracle"), THRESHOLDS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda raw: raw.update(criterion="oracle"), "criterion"),
        (lambda raw: raw.update(first=9), "exit 9 has no rule"),
        (lambda raw: raw.update(first=True), "no whole number"),
        (lambda raw: raw["exits"]["3"].update(actions=[2, 0]), "leads to 2"),
        (lambda raw: raw["exits"]["3"].update(actions=[4]), "do not fit"),
        (lambda raw: raw["exits"]["3"].update(bounds=["1"]), "no number"),
        (lambda raw: raw["exits"]["3"].update(actions=[-1, 0]), "no engine"),
        (lambda raw: raw["exits"].pop("4"), "exit 4 has no rule"),
    ],
)
def test_a_rule_of_no_network_is_refused(change, told: str) -> None:
    raw = rule_of(Hierarchical(1.0), THRESHOLDS)
    change(raw)
    with pytest.raises(ValueError, match=told):
        Rule.from_json(raw)
