"""A policy is one class: a new one, entered in POLICIES, is replayed, searched, priced, stored and run live."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.laws import examples
from support.random_traces import betas, policies, stopping_rules, traces
from support.searches import ONE, run

from results.parts import rows_of
from search_spaces.spec import parse_space
from study import Hierarchical, Placed, UserError, exact_front, replay, tally
from study.cli.main import build_parser
from study.costs.flops import count_work
from study.costs.memory import Memory
from study.costs.model.dvfs import worst_seconds
from study.networks.multi_exit import build_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.policies.base import CompiledPolicy, Decision, Policy, betas_of
from study.policies.live import run_policy
from study.policies.policies import POLICIES, policy_from_row
from study.search.exact_search import exact_points
from study.search.operating_point import point_of
from study.search.space import check_names


@dataclass(frozen=True)
class EverySecond(Policy):
    """Tries every second exit from ``start_layer`` on."""

    beta: float
    start_layer: int = 1
    criterion: str = "logit"
    name = "every_second"

    def first_exit(self, exit_count):
        return self.start_layer

    def decide(self, ratios, *, exit, exit_count, beta=None):
        return Decision.same_next(ratios.stop >= (self.beta if beta is None else beta), min(exit + 2, exit_count + 1))

    def path(self, exit_count):
        return tuple(range(self.start_layer, exit_count + 1, 2))

    def compiled(self, exit_count):
        next_exit = np.minimum(np.arange(2, exit_count + 3), exit_count + 1)
        beta = np.append(0.0, betas_of(self.beta, exit_count))
        return CompiledPolicy(self.start_layer, beta, next_exit, 0, exit_count + 1)


def placed(policy: EverySecond, exit_count: int) -> Placed:
    """The same walks by a policy of the package."""
    return Placed(policy.beta, policy.path(exit_count), policy.criterion)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(POLICIES, "every_second", EverySecond)


@pytest.mark.parametrize("criterion", ["logit", "margin", "patience"])
@given(trace=traces(), data=st.data())
@examples(30)
def test_its_replay_and_tally_are_those_of_the_same_exits_placed(criterion, trace, data):
    policy = EverySecond(data.draw(betas(trace)), data.draw(st.integers(1, trace.exit_count)), criterion)
    other = placed(policy, trace.exit_count)
    assert replay(trace, policy).exit_index.tolist() == replay(trace, other).exit_index.tolist()
    assert replay(trace, policy).tried.tolist() == replay(trace, other).tried.tolist()
    assert tally(trace, policy).stopped.tolist() == tally(trace, other).stopped.tolist()


def test_a_row_of_a_table_holds_it():
    for policy in (EverySecond(2.5, 3), EverySecond((1.0, 2.0, 3.0), 2, "margin")):
        row = policy.to_row()
        assert row["policy"] == "every_second"
        assert policy_from_row(row) == policy


def test_costs_count_the_heads_that_it_may_run():
    network = ONE[0]
    policy = EverySecond(1.0, 2)
    assert policy.heads_it_may_run(5).tolist() == [False, True, False, True, False]
    costs = replace(network.costs, segment_seconds=[1.0] * 6, head_seconds=[0.5] * 5, engine_step_seconds=0.0)
    assert worst_seconds(costs, policy)[0] == 6 + 2 * 0.5
    settings = NetworkSettings(backbone="vgg11", width=0.125, head=HeadSettings(kind="linear"))
    memory = Memory.of(count_work(build_network(settings, classes=3, image_size=32, channels=1)), "fp32", 1)
    exits = len(memory.head_weights)
    assert memory.of_policy(policy) == memory.of_policy(placed(policy, exits)) < memory.of_policy(Hierarchical(1.0))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_search_finds_points_of_it_and_reads_them_back(tmp_path):
    text = "policy: [every_second, classic], criterion: [logit, margin], trials: 30, batch: 10, sampler: random"
    spec = parse_space(f"name: x\noperating_points: {{{text}}}", "test").operating_points
    check_names(spec)
    table = run(spec, ONE, tmp_path)
    assert set(table["state"]) == {"COMPLETE"}
    found = [row for row in rows_of(table) if row["policy"] == "every_second"]
    assert len({(row["start_layer"], row["criterion"]) for row in found}) > 5
    for row in found:
        point = point_of(row, ONE)
        other = replace(point, policy=placed(point.policy, 5))
        assert point.evaluate() == other.evaluate()
        assert row["accuracy"] == other.evaluate()["accuracy"]


def test_its_exact_front_holds_what_its_replays_give():
    network = ONE[0]
    trace = network.trace("mean_max")
    front = exact_front(trace, network.costs, EverySecond, ("accuracy", "flops"))
    for row in front.itertuples():
        count = tally(trace, EverySecond(min(row.beta_high, 1e9), row.start_layer))
        assert count.accuracy == row.accuracy
        assert network.costs.mean(count, "flops") == pytest.approx(row.flops)
    spec = parse_space("name: x\noperating_points: {policy: every_second, search: exact}", "test").operating_points
    found, _ = exact_points(spec, ONE, network.classic_accuracy)
    assert {type(one.policy) for one in found} == {EverySecond}


@dataclass(frozen=True)
class Undecided(Hierarchical):
    """Decides at twice the beta; the compiled form of its parent class does not hold for it."""

    name = "undecided"

    def decide(self, ratios, *, exit, exit_count, beta=None):
        twice = np.full(len(ratios.stop), 2 * self.beta) if beta is None else 2 * beta
        return super().decide(ratios, exit=exit, exit_count=exit_count, beta=twice)


def test_a_policy_without_compiled_form_is_searched_but_has_no_exact_front(tmp_path, monkeypatch):
    network = ONE[0]
    with pytest.raises(UserError, match="compiled form"):
        exact_front(network.trace("mean_max"), network.costs, Undecided)
    monkeypatch.setitem(POLICIES, "undecided", Undecided)
    text = "policy: undecided, beta: [1.0, 2.0], trials: 12, batch: 6, sampler: random"
    table = run(parse_space(f"name: x\noperating_points: {{{text}}}", "test").operating_points, ONE, tmp_path)
    assert set(table["state"]) == {"COMPLETE"}
    for row in rows_of(table):
        point = point_of(row, ONE)
        other = replace(point, policy=Hierarchical(2 * row["beta"], int(row["start_layer"])))
        assert type(point.policy) is Undecided
        assert point.evaluate() == other.evaluate()


def test_a_live_network_runs_it_and_the_command_line_offers_it():
    torch.manual_seed(0)
    settings = NetworkSettings(backbone="vgg11", width=0.125, head=HeadSettings(kind="linear"))
    network = build_network(settings, classes=3, image_size=32, channels=1).eval()
    policy, exits = EverySecond(1.0, 2), network.exit_count
    images, thresholds = torch.randn(4, 1, 32, 32), np.geomspace(1.0, 0.1, exits)
    live, other = (run_policy(network, images, one, thresholds) for one in (policy, placed(policy, exits)))
    assert live.tried.tolist() == other.tried.tolist()
    assert build_parser().parse_args(["evaluate", "--policy", "every_second"]).policy == "every_second"


@given(trace=traces(), data=st.data())
@examples(40)
def test_every_policy_of_the_package_comes_back_from_its_row(trace, data):
    policy = data.draw(st.one_of(policies(trace, own=True), stopping_rules(trace)))
    assert policy_from_row(policy.to_row()) == policy
    assert policy.name in POLICIES


@given(trace=traces(), data=st.data())
@examples(40)
def test_no_walk_runs_a_head_or_reaches_an_exit_that_the_policy_rules_out(trace, data):
    policy = data.draw(st.one_of(policies(trace, own=True), stopping_rules(trace)))
    walk = replay(trace, policy)
    assert not walk.tried[:, ~policy.heads_it_may_run(trace.exit_count)].any()
    assert walk.exit_index.max() <= policy.depth(trace.exit_count)
    if policy.knows_its_end:
        assert set(walk.exit_index) == {policy.first_exit(trace.exit_count)}
