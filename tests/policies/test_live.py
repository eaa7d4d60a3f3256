"""Live inference: the same walk as the replay of the same images' trace, and no work that the walk does not need."""

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from support.plain_twins import all_confidences, all_ratios

from study import (
    Classic,
    Costs,
    Hierarchical,
    OptimalStopping,
    Placed,
    Predictive,
    Static,
    Trace,
    UserError,
    fit_head_thresholds,
    fit_optimal_stopping,
    replay,
)
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.policies.base import Policy
from study.policies.criteria import CRITERIA
from study.policies.decision_table import table_for
from study.policies.live import run_policy
from study.policies.optimal_stopping import STOP, ExitTable
from study.policies.policies import HeadThresholds
from study.policies.replay import join_walks
from study.policies.thresholds import thresholds_from_logits
from study.traces.collect import collect_logits

IMAGES, CLASSES, MAX_JUMP = 20, 5, 4
LIVE = [criterion for criterion in CRITERIA if criterion not in ("logit", "oracle")]
FIELDS = ("exit_index", "predictions", "tried", "heads_run", "engine_steps")


@dataclass
class Case:
    network: MultiExitNetwork
    images: torch.Tensor
    trace: Trace
    betas: list[float]
    """Each at least 1e-4 (relative) away from every ratio, among them."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small are slower on several threads, most of all where other work runs beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[("vgg11", "linear"), ("resnet18", "conv")], ids=lambda pair: pair[0])
def case(request, one_thread) -> Case:
    backbone, kind = request.param
    torch.manual_seed(7)
    head = HeadSettings(kind=kind, conv_channels=8, conv_layers=4)
    settings = NetworkSettings(backbone=backbone, width=0.125, head=head)
    network = build_network(settings, classes=CLASSES, image_size=32, channels=1).eval()
    # Contrast differs from image to image and no head has a bias, so that logits differ too.
    for layer in network.heads.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.zeros_(layer.bias)
    images = torch.randn(IMAGES, 1, 32, 32) * torch.linspace(0.2, 3.0, IMAGES).reshape(-1, 1, 1, 1)
    logits = collect_logits(network, images, lambda batch: batch, batch_size=7)
    # Thresholds fall with depth, so that a beta sends some images out early and others late.
    thresholds = thresholds_from_logits(logits, "mean_max") * np.geomspace(3.0, 0.3, network.exit_count)
    trace = Trace(logits=logits, labels=np.arange(IMAGES) % CLASSES, thresholds=thresholds)
    return Case(network, images, trace, _betas_between(all_ratios(trace, MAX_JUMP)))


@pytest.fixture(scope="module")
def undecided(case) -> Case:
    """The same network with logits of mean 0 and standard deviation 1 at every exit, so that answers differ."""
    network = deepcopy(case.network)
    mean, spread = (torch.from_numpy(part) for part in (case.trace.logits.mean(axis=0), case.trace.logits.std(axis=0)))

    def standardise(module, arguments, logits):
        exit = arguments[1]
        return (logits - mean[exit - 1]) / spread[exit - 1]

    network.heads.register_forward_hook(standardise)
    logits = collect_logits(network, case.images, lambda batch: batch, batch_size=7)
    np.testing.assert_allclose(logits[:, :-1].std(axis=0), 1, rtol=1e-3)
    return replace(case, network=network, trace=replace(case.trace, logits=logits))


def betas_of_criterion(case: Case, criterion: str) -> list[float]:
    """Where about one in twenty to one in three samples stop, each at least 1e-3 away from every score."""
    if criterion == "patience":
        return [1.5, 2.0, 3.0, 4.0]
    scores = np.asarray(all_confidences(case.trace, criterion))
    tries = np.linspace(*np.quantile(scores, [0.6, 0.95]), 2000)
    return [float(beta) for beta in tries[np.abs(scores[:, None] - tries).min(axis=0) > 1e-3]]


def _betas_between(ratios: list[float]) -> list[float]:
    low, high = ratios[0], ratios[-1]
    tries = np.geomspace(low * 0.9, high * 1.1, 2000)
    near = np.abs(np.asarray(ratios)[:, None] / tries - 1).min(axis=0)
    return [float(beta) for beta in tries[near > 1e-4]]


def random_policies(case: Case, count: int) -> list[Policy]:
    """Policies of all kinds at betas from everywhere between the ratios; adaptive ones most often."""
    random = np.random.default_rng(3)
    exits = case.network.exit_count
    policies: list[Policy] = [Classic(), Static(1), Static(exits)]
    typical = [beta for beta in case.betas if 0.5 < beta < 2]
    for number in range(count):
        beta = float(random.choice(typical if number % 3 else case.betas))
        start = int(random.integers(1, exits + 1))
        chosen = np.flatnonzero(random.random(exits) < 0.5) + 1
        policies += [
            Predictive(beta, start, max_jump=1 + number % MAX_JUMP, overshoot=("last_exit", "classifier")[number % 2]),
            Hierarchical(beta, start),
            Placed(beta, chosen.tolist() or [1]),
        ]
    return policies


def policies_of(criterion: str, case: Case) -> list[Policy]:
    """Walks over all exits from some start on and over some of them, with one beta and with one for each exit."""
    random = np.random.default_rng(4)
    exits, betas = case.network.exit_count, betas_of_criterion(case, criterion)
    policies: list[Policy] = []
    for start in (1, 2, 4):
        chosen = (np.flatnonzero(random.random(exits) < 0.7) + 1).tolist()
        for beta in (float(random.choice(betas)), random.choice(betas, exits)):
            policies += [Hierarchical(beta, start, criterion), Placed(beta, chosen, criterion)]
    return policies


def policies_with_betas_of_exits(case: Case, count: int) -> list[Policy]:
    """The paper's criterion, with a beta for each exit."""
    random = np.random.default_rng(5)
    exits = case.network.exit_count
    typical = [beta for beta in case.betas if 0.3 < beta < 3]
    policies: list[Policy] = []
    for number in range(count):
        betas, start = tuple(float(beta) for beta in random.choice(typical, exits)), int(random.integers(1, exits))
        policies += [
            Predictive(betas, start, max_jump=1 + number % MAX_JUMP, overshoot=("last_exit", "classifier")[number % 2]),
            Hierarchical(betas, start),
            Placed(betas, range(1, exits + 1, 2)),
        ]
    return policies


def assert_same(walk, other) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(walk, name), getattr(other, name), err_msg=name)


def test_the_cases_are_worth_running(case):
    """Samples stop at many exits, and jumps of several lengths are taken."""
    assert len(case.betas) > 50
    walks = [replay(case.trace, policy) for policy in random_policies(case, 12)]
    assert len(np.unique(np.concatenate([walk.exit_index for walk in walks]))) > case.network.exit_count / 2
    assert len(np.unique(np.concatenate([walk.engine_steps for walk in walks]))) > 3
    assert sum(len(np.unique(walk.exit_index)) > 2 for walk in walks) > 8


@pytest.mark.parametrize("criterion", LIVE)
def test_the_criteria_are_worth_running(undecided, criterion):
    """Samples stop at many exits, and not all at the same."""
    assert criterion == "patience" or len(betas_of_criterion(undecided, criterion)) > 50
    walks = [replay(undecided.trace, policy) for policy in policies_of(criterion, undecided)]
    assert len(np.unique(np.concatenate([walk.exit_index for walk in walks]))) > undecided.network.exit_count / 2
    assert sum(len(np.unique(walk.exit_index)) > 3 for walk in walks) >= len(walks) / 2


def test_betas_of_exits_are_worth_running(case):
    """They send samples elsewhere than their smallest or largest one would."""
    for policy in policies_with_betas_of_exits(case, 4):
        walk = replay(case.trace, policy)
        for one in (min(policy.beta), max(policy.beta)):
            assert (replay(case.trace, replace(policy, beta=one)).exit_index != walk.exit_index).any()


def test_a_batch_equals_the_replay(case):
    for policy in [*random_policies(case, 6), *policies_with_betas_of_exits(case, 4)]:
        live = run_policy(case.network, case.images, policy, case.trace.thresholds)
        assert_same(live, replay(case.trace, policy))


def test_single_images_and_uneven_batches_equal_the_replay(case):
    for policy in [*random_policies(case, 2), *policies_with_betas_of_exits(case, 1)]:
        for size in (1, 7):
            batches = case.images.split(size)
            walks = [run_policy(case.network, batch, policy, case.trace.thresholds) for batch in batches]
            assert_same(join_walks(walks), replay(case.trace, policy))


@pytest.mark.parametrize("criterion", LIVE)
def test_other_criteria_stop_where_the_replay_does_in_batches_of_any_size(undecided, criterion):
    for number, policy in enumerate(policies_of(criterion, undecided)):
        expected = replay(undecided.trace, policy)
        for size in (IMAGES, 7, 1) if number % 5 == 0 else (IMAGES,):
            batches = undecided.images.split(size)
            walks = [run_policy(undecided.network, batch, policy, undecided.trace.thresholds) for batch in batches]
            assert_same(join_walks(walks), expected)


def fitted_rules(case: Case) -> list[Policy]:
    """Optimal stopping with random tables and with fitted ones, and thresholds of each head by each criterion.

    Every score is at least 1e-4 (relative) away from every bound.
    """
    random = np.random.default_rng(8)
    exits, betas = case.network.exit_count, betas_of_criterion(case, "log_margin")
    rules: list[Policy] = []
    for _ in range(6):
        tables = {}
        for exit in range(1, exits + 1):
            actions = random.integers(exit + 1, min(exit + 3, exits + 1) + 1, 3)
            actions[random.integers(3)] = STOP
            tables[exit] = ExitTable(tuple(np.sort(random.choice(betas, 2, replace=False))), tuple(actions.tolist()))
        rules.append(OptimalStopping(int(random.integers(1, 3)), tables, 0.5))
    # Labels that deeper exits know better, so that a fit has something to weigh.
    trace = replace(case.trace, labels=case.trace.answers[:, -1])
    costs = Costs(segment_flops=np.full(exits + 1, 10.0), head_flops=np.ones(exits))
    for form in ("regression", "head_thresholds"):
        rules += fit_optimal_stopping(trace, costs, (0.1, 0.5, 1.0), form=form)
    for criterion in ("logit", "max_softmax", "entropy", "margin", "log_margin"):
        rules += fit_head_thresholds(trace, costs, criterion, (0.1, 0.5, 1.0))
    return [rule for rule in rules if _is_clear(case, rule)]


def _is_clear(case: Case, rule: Policy) -> bool:
    scores = table_for(case.trace, rule).stop
    if isinstance(rule, OptimalStopping):
        bounds = [(exit, bound) for exit, table in rule.tables.items() for bound in table.bounds]
    else:
        bounds = [(exit, rule.to_row()["betas"][exit - 1]) for exit in rule.to_row()["exits"]]
    return all((np.abs(scores[:, exit - 1] / bound - 1) > 1e-4).all() for exit, bound in bounds if bound > 0)


def count_work(case: Case, policy: Policy):
    """Run a policy; returns the walk and, per part, the batch sizes of its calls."""
    network, segments, heads, classifier = case.network, {}, {}, []

    def watch_segment(number):
        def hook(module, arguments):
            sizes = {len(tensor) for tensor in arguments[0]}
            assert len(sizes) == 1, "a carried tensor was left uncompacted"
            segments.setdefault(number, []).append(sizes.pop())

        return hook

    hooks = [
        segment.register_forward_pre_hook(watch_segment(number))
        for number, segment in enumerate(network.segments, start=1)
    ]
    hooks.append(
        network.heads.register_forward_pre_hook(
            lambda module, arguments: heads.setdefault(arguments[1], []).append(len(arguments[0]))
        )
    )
    hooks.append(
        network.classifier.register_forward_pre_hook(lambda module, arguments: classifier.append(len(arguments[0][0])))
    )
    try:
        walk = run_policy(network, case.images, policy, case.trace.thresholds)
    finally:
        for hook in hooks:
            hook.remove()
    return walk, segments, heads, classifier


def test_fitted_rules_stop_where_the_replay_does_and_run_no_head_that_they_jump_over(undecided):
    rules = fitted_rules(undecided)
    walks = [replay(undecided.trace, rule) for rule in rules]
    for number, (rule, expected) in enumerate(zip(rules, walks, strict=True)):
        live, _, heads, _ = count_work(undecided, rule)
        assert_same(live, expected)
        tried = expected.tried.sum(axis=0)
        assert heads == {exit: [int(count)] for exit, count in enumerate(tried, start=1) if count}
        assert set(heads) <= set((np.flatnonzero(rule.heads_it_may_run(undecided.network.exit_count)) + 1).tolist())
        if number % 3 == 0:
            batches = undecided.images.split(7)
            join = [run_policy(undecided.network, batch, rule, undecided.trace.thresholds) for batch in batches]
            assert_same(join_walks(join), expected)
    assert {type(rule) for rule in rules} == {OptimalStopping, HeadThresholds}
    assert len({rule.criterion for rule in rules}) == 5
    assert len(rules) >= 12
    assert sum(len(np.unique(walk.exit_index)) > 2 for walk in walks) >= 6
    jumps = [walk for walk in walks if ((np.cumsum(walk.tried[:, ::-1], axis=1)[:, ::-1] > 0) & ~walk.tried).any()]
    assert len(jumps) >= 4, "heads in between stayed idle"


def test_stopped_samples_leave_and_untried_heads_stay_idle(case):
    exits, shrunk, idle = case.network.exit_count, 0, 0
    for policy in random_policies(case, 8):
        walk, segments, heads, classifier = count_work(case, policy)
        stopped = Counter(replay(case.trace, policy).exit_index.tolist())
        expected, staying = {}, IMAGES
        for number in range(1, exits + 1):
            if staying:
                expected[number] = [staying]
            staying -= stopped[number]
        assert segments == expected
        assert classifier == ([staying] if staying else [])
        tried = replay(case.trace, policy).tried.sum(axis=0)
        assert heads == {exit: [int(count)] for exit, count in enumerate(tried, start=1) if count}
        shrunk += len({sizes[0] for sizes in segments.values()}) > 2
        idle += len(heads) < exits
        assert walk.heads_run.sum() == sum(sizes[0] for sizes in heads.values())
    assert shrunk > 5
    assert idle > 5


def test_no_gradient_is_kept_and_the_images_stay(case):
    before = case.images.clone()
    mode = case.network.training
    run_policy(case.network, case.images, Predictive(case.betas[25]), case.trace.thresholds)
    assert torch.equal(case.images, before)
    assert case.network.training == mode


def test_an_exit_that_the_network_lacks_is_refused(case):
    with pytest.raises(UserError, match=f"1 to {case.network.exit_count}"):
        run_policy(case.network, case.images, Static(99), case.trace.thresholds)


@pytest.mark.parametrize("policy", [Hierarchical(1.0, 1, "oracle"), Placed(1.0, [1], "oracle")])
def test_the_oracle_is_refused_by_a_live_network(case, policy):
    assert replay(case.trace, policy).accuracy(case.trace.labels) > 0
    with pytest.raises(UserError, match="oracle") as error:
        run_policy(case.network, case.images, policy, case.trace.thresholds)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("build", [Hierarchical, Predictive, lambda betas: Placed(betas, [1])])
def test_another_number_of_betas_than_exits_is_refused(case, build):
    exits = case.network.exit_count
    for count in (1, exits - 1, exits + 1):
        with pytest.raises(UserError, match=f"{count} betas.* {exits} exits"):
            run_policy(case.network, case.images, build((1.0,) * count), case.trace.thresholds)


def test_another_number_of_thresholds_than_exits_is_refused(case):
    with pytest.raises(UserError, match=f"{case.network.exit_count} exits"):
        run_policy(case.network, case.images, Hierarchical(1.0), case.trace.thresholds[:-1])


def test_collected_logits_are_those_of_the_network_in_eval_mode(case):
    network = case.network.train()
    try:
        logits = collect_logits(network, case.images, lambda batch: batch, batch_size=8)
        assert network.training
    finally:
        network.eval()
    with torch.inference_mode():
        expected = network(case.images).numpy()
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
