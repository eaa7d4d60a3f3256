"""Cascaded exits: what is trained, that all forms of a network answer alike, and what a walk pays for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.exports import export_of
from support.tiny_network import TINY

from study import Classic, Costs, EarlyExit, Hierarchical, Placed, Static, Trace, UserError, Walk, replay
from study.costs.flops import NetworkWork, count_work
from study.costs.measure.bench import measure_profile
from study.costs.measure.profile import MeasureSettings
from study.costs.memory import Memory
from study.costs.model.devices import load_device
from study.costs.model.dvfs import LevelCosts, simulate, smallest_slack
from study.fronts.priced_paths import PathShares
from study.networks.cascade import running_answers
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.quantization import check_precision, int8_execution, prepare
from study.networks.settings import HeadSettings, NetworkSettings
from study.policies.live import run_policy
from study.traces.collect import collect_logits
from study.training.loss import training_loss
from study.training.settings import TrainingSettings

CPU = torch.device("cpu")


def network(backbone: str = "vgg11", *, cascade: float = 0.5, kind: str = "conv") -> MultiExitNetwork:
    """An untrained network for 32 x 32 grey images, whose statistics are those of some noise."""
    torch.manual_seed(2)
    head = HeadSettings(kind=kind, conv_channels=8, codewords=8, cascade=cascade)
    settings = NetworkSettings(backbone=backbone, width=0.125, head=head)
    made = build_network(settings, classes=5, image_size=32, channels=1)
    with torch.no_grad():
        made.train()(images(32, seed=1))
    return made.eval()


def images(count: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 32, 32, generator=generator) * torch.linspace(0.3, 2, count).reshape(-1, 1, 1, 1)


def logits_of(some: object, count: int = 30) -> np.ndarray:
    return collect_logits(some, images(count), lambda batch: batch, batch_size=7)  # type: ignore[arg-type]


def test_each_exit_adds_a_share_of_the_answer_before() -> None:
    own = torch.tensor([[[1.0, 2.0]], [[4.0, 0.0]], [[0.0, 8.0]]])
    assert running_answers(own, 0.5).tolist() == [[[1, 2]], [[4.5, 1]], [[2.25, 8.5]]]
    assert running_answers(own, 0.0) is own


def test_exits_answer_by_the_sum_and_the_classifier_alone() -> None:
    alone, together = (logits_of(network(cascade=share)) for share in (0.0, 0.5))
    expected = alone[:, 0]
    for exit in range(1, alone.shape[1] - 1):
        expected = alone[:, exit] + 0.5 * expected
        np.testing.assert_allclose(together[:, exit], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(together[:, -1], alone[:, -1])


@pytest.mark.parametrize("mode", ["exits", "joint"])
def test_a_head_learns_from_its_own_exit_alone(mode: str) -> None:
    """The first head of a cascade has the gradient that it has without one; later ones see another error."""
    labels = torch.arange(12) % 5

    def gradients(cascade: float) -> dict[str, torch.Tensor]:
        made = network(TINY, cascade=cascade, kind="linear")
        training_loss(made, images(12), labels, TrainingSettings(mode=mode)).backward()
        return {name: one.grad for name, one in made.heads.named_parameters() if one.grad is not None}

    alone, together = gradients(0.0), gradients(1.0)
    assert alone.keys() == together.keys()
    same = {name for name in alone if torch.allclose(alone[name], together[name], atol=1e-6)}
    assert same == {name for name in alone if ".0." in name}


def test_the_loss_is_that_of_the_running_answers() -> None:
    made, labels = network(TINY, cascade=1.0, kind="linear"), torch.arange(12) % 5
    found = training_loss(made, images(12), labels, TrainingSettings(mode="joint")).item()
    with torch.no_grad():
        each = torch.nn.functional.cross_entropy(
            made(images(12)).flatten(0, 1), labels.repeat_interleave(made.exit_count + 1), reduction="sum"
        )
    assert found == pytest.approx(float(each) / 12, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "precision"), [("bof", "fp32"), ("conv", "bf16"), ("conv", "int8"), ("bof", "int8_all")]
)
def test_live_runs_that_skip_exits_are_the_replay(kind: str, precision: str) -> None:
    try:
        known = check_precision(precision, CPU)
    except UserError as error:
        pytest.skip(str(error))
    made = network(TINY, kind=kind)
    ready = prepare(made, known, calibration=images(40))
    far = np.abs(logits_of(ready) - logits_of(made)).max() / np.abs(logits_of(made)).max()
    assert far < {"fp32": 1e-6, "bf16": 0.02}.get(precision, 0.3)
    trace = Trace(logits_of(ready), np.zeros(30, dtype=np.int64), np.ones(made.exit_count))
    for exits in ([2], [1, 2]):
        policy = Placed(float(np.median(np.abs(trace.logits[:, exits[0] - 1]).max(axis=1))) * 1.001, exits)
        live, again = run_policy(ready, images(30), policy, trace.thresholds), replay(trace, policy)
        assert (live.exit_index == again.exit_index).mean() >= (1 if precision == "fp32" else 0.9)
        assert len(set(again.exit_index.tolist())) > 1
    with pytest.raises(AssertionError, match="run their heads"):
        run_policy(made, images(3), Hierarchical(1.0), trace.thresholds)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_exported_model_walks_as_the_study(precision: str) -> None:
    if precision == "int8" and int8_execution(CPU) == "simulated":
        pytest.skip("needs an x86 CPU")
    made = network(TINY)
    known = check_precision(precision, CPU)
    ready, plain = (prepare(made, known, calibration=images(40), lowered=one) for one in (True, False))
    logits = logits_of(ready)
    thresholds = np.abs(logits[:, :-1]).max(axis=2).mean(axis=0)
    policy = Placed(1.001, [1, 2])
    expected = run_policy(ready, images(30), policy, thresholds)
    costs = count_work(made).flop_costs()
    model = EarlyExit(export_of(plain, policy, thresholds, costs=costs), CPU, compile=False, compact_below=1.0)
    found = model.run(images(30))
    assert model.classic_flops == costs.classic("flops")
    far = 1e-12 if precision == "fp32" else 0.1
    np.testing.assert_allclose(model.flops(found).mean(), costs.per_sample(expected, "flops").mean(), rtol=far)
    assert (found.exits == expected.exit_index).mean() >= (1 if precision == "fp32" else 0.9)
    assert len(set(expected.exit_index.tolist())) == 3


# --- what a walk pays for --------------------------------------------------------------------------------------------

COSTS = Costs(segment_flops=[1.0, 2.0, 4.0], head_flops=[8.0, 16.0], cascaded=True)


def walk(exit: int, tried: list[int]) -> Walk:
    return Walk(np.array([exit]), np.zeros(1, np.int64), np.array([tried], dtype=bool), np.zeros(1, np.int64))


@pytest.mark.parametrize(
    ("exit", "tried", "expected"),
    [(1, [1, 0], 9), (2, [0, 1], 27), (2, [1, 1], 27), (3, [1, 0], 31), (3, [0, 0], 7)],
)
def test_a_walk_pays_for_all_heads_up_to_its_end_or_for_none(exit: int, tried: list[int], expected: float) -> None:
    one = walk(exit, tried)
    assert COSTS.per_sample(one, "flops").tolist() == [expected]
    assert COSTS.mean(one.tally(np.zeros(1, np.int64)), "flops") == expected
    assert Costs.from_json(COSTS.to_json()).per_sample(one, "flops").tolist() == [expected]


def test_shares_are_those_of_the_network_without_exits() -> None:
    assert COSTS.classic("flops") == 7
    assert COSTS.of_cuts("flops").tolist() == [9, 27, 7]
    assert PathShares.of(COSTS, "flops").reach.tolist() == [9 / 7, 27 / 7, 31 / 7]


def test_a_decision_is_paid_where_it_is_made() -> None:
    costs = COSTS.with_decisions(0.5)
    assert costs.per_sample(walk(2, [0, 1]), "flops").tolist() == [27.5]
    assert costs.per_sample(walk(3, [0, 0]), "flops").tolist() == [7]


def test_a_live_run_without_exits_runs_no_head() -> None:
    made, ran = network(), []
    for head in made.heads.exits:  # type: ignore[union-attr]
        head.register_forward_hook(lambda *call: ran.append(call))
    ready, thresholds = prepare(made, "fp32"), np.ones(made.exit_count)
    run_policy(ready, images(3), Classic(), thresholds)
    assert not ran
    run_policy(ready, images(3), Placed(1e9, [2]), thresholds)
    assert len(ran) == made.exit_count


@pytest.fixture(scope="module")
def work() -> NetworkWork:
    return count_work(network())


def test_counted_modelled_and_published_costs_know_the_cascade(work: NetworkWork) -> None:
    plain = count_work(network(cascade=0.0))
    assert (work.cascaded, plain.cascaded) == (True, False)
    assert replace(work, cascaded=False) == plain, "the parts themselves are the same"
    whole = plain.flop_costs().classic("flops")
    last = plain.segment_flops[:-1].sum() + plain.head_flops.sum()
    assert work.flop_costs().of_cuts("flops")[-2:].tolist() == [last, whole]
    for device in ("horowitz-2014-45nm", "jetson-tx2"):
        costs = load_device(device).costs(work, precision="fp32", batch_size=1)
        apart = replace(costs, cascaded=False)
        assert costs.cascaded and costs.classic("energy") == apart.classic("energy")
        heads = apart.parts("energy")[1].sum()
        assert costs.of_cuts("energy")[-2] == pytest.approx(apart.parts("energy")[0][:-1].sum() + heads)


def test_a_program_keeps_the_heads_before_the_exits_that_it_tries(work: NetworkWork) -> None:
    own, plain = (Memory.of(one, "fp32", 1) for one in (work, replace(work, cascaded=False)))
    assert own.of_policy(Classic()) == plain.of_policy(Classic())
    before = sum(sum(sizes.values()) for sizes in plain.head_weights[:2])
    assert own.of_policy(Static(3)) == plain.of_policy(Static(3)) + before
    assert own.of_cuts()[2] == plain.of_cuts()[2] + before
    parameters = work.parameters_at_exits - replace(work, cascaded=False).parameters_at_exits
    assert parameters[2] == before / 4 and parameters[[0, -1]].tolist() == [0, 0]


def test_under_frequency_scaling_the_network_without_exits_runs_no_head(work: NetworkWork) -> None:
    device = load_device("jetson-tx2")
    cascade, plain = (
        device.level_costs(one, precision="fp32", batch_size=1) for one in (work, replace(work, cascaded=False))
    )
    period = 3 * plain.costs[-1].classic("seconds")

    def joules(levels: LevelCosts, policy: Classic | Static) -> float:
        exits = levels.exit_count
        trace = Trace(np.zeros((1, exits + 1, 5)), np.zeros(1, np.int64), np.ones(exits))
        found = simulate(replay(trace, policy), levels, rule="race_to_idle", policy=policy, slack=1.0, period=period)
        return float(found.joules[0])

    assert smallest_slack(cascade, Classic(), work.flop_costs().exit_count) == 0
    assert joules(cascade, Classic()) == joules(plain, Classic())
    assert joules(cascade, Static(1)) == joules(plain, Static(1))
    assert joules(cascade, Static(4)) > joules(plain, Static(4))


def test_a_profile_measures_segments_and_heads_apart(work: NetworkWork) -> None:
    settings = MeasureSettings(repeats=2, warm_up_seconds=1e-3, timing_window_seconds=2e-3)
    profile = measure_profile(
        prepare(network(), "fp32"), counted=work.flop_costs(), batch_size=4, meter=None, settings=settings
    )
    assert profile.costs.cascaded
    segments, heads, _ = profile.costs.parts("seconds")
    assert not heads.any()
    apart = replace(profile.costs, cascaded=False)
    assert profile.costs.classic("seconds") == apart.parts("seconds")[0].sum() < segments.sum()
