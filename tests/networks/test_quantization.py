"""Precisions: what is quantized and what is not, how near the logits stay, and that integers are computed with."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.integer_operations import integer_operations
from support.tiny_network import TINY
from torch import nn
from torchvision.models.resnet import BasicBlock

from study import Hierarchical, Predictive, Trace, UserError, replay
from study.networks.inference_network import RunnableNetwork, all_logits
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.precisions import PRECISIONS
from study.networks.quantization import check_precision, in_fp32, int8_execution, prepare
from study.networks.registry import ExitPoint, FeatureClassifier, FeatureSegment, Segmented, register_backbone
from study.networks.settings import HeadSettings, NetworkSettings
from study.policies.base import Policy
from study.policies.decision_table import ratio_table, table_for
from study.policies.live import run_policy
from study.policies.optimal_stopping import STOP, ExitTable, OptimalStopping
from study.policies.policies import HeadThresholds
from study.policies.thresholds import thresholds_from_logits
from study.traces.collect import collect_logits

CPU = torch.device("cpu")
on_x86 = pytest.mark.skipif(int8_execution(CPU) == "simulated", reason="needs an x86 CPU")


def network(
    backbone: str = TINY, *, kind: str = "linear", image_size: int = 8, width: float = 0.125, pooling: str = "average"
):
    """With statistics of batch norm that are not those of the start."""
    torch.manual_seed(3)
    head = HeadSettings(kind=kind, codewords=8, conv_channels=8, conv_layers=4, pooling=pooling)
    settings = NetworkSettings(backbone=backbone, width=width, head=head)
    net = build_network(settings, classes=5, image_size=image_size, channels=1)
    with torch.no_grad():
        for _ in range(3):
            net.train()(images(64, image_size, seed=9))
    return net.eval()


def images(count: int, size: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.3, 2.0, count).reshape(-1, 1, 1, 1)
    return torch.randn(count, 1, size, size, generator=generator) * scale


@pytest.fixture(scope="module")
def tiny() -> MultiExitNetwork:
    return network()


@pytest.fixture(scope="module")
def in_int8(tiny):
    return prepare(tiny, "int8", calibration=images(100))


@pytest.fixture(scope="session")
def vgg() -> MultiExitNetwork:
    return network("vgg11", kind="bof", image_size=32)


@pytest.fixture(scope="session")
def vgg_in_int8(vgg) -> RunnableNetwork:
    """Backbone and heads: an export of 25 parts, which several tests share."""
    return prepare(vgg, "int8_all", calibration=images(64, 32))


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().mean().detach() / other.abs().mean().detach())


def test_fp32_runs_the_very_same_parts(tiny):
    ready = prepare(tiny, "fp32")
    assert ready.segments is tiny.segments and ready.classifier is tiny.classifier
    x = images(7)
    assert torch.equal(all_logits(ready, x), tiny(x))
    assert (ready.precision, ready.int8_execution, ready.exit_count) == ("fp32", None, 2)


@pytest.mark.parametrize("count", [1, 2, 65])
def test_int8_logits_are_near_for_any_batch(tiny, in_int8, count):
    x = images(count, seed=1)
    with torch.inference_mode():
        logits = all_logits(in_int8, x)
    assert logits.shape == (count, 3, 5) and logits.dtype == torch.float32
    assert 0 < distance(logits, tiny(x)) < 0.03


def test_heads_stay_in_float_and_read_the_quantized_map(tiny, in_int8):
    x = images(9)
    state = in_int8.segments[0]((x,))
    assert torch.equal(in_int8.heads(state[0], 1), tiny.heads(state[0], 1))


@pytest.mark.parametrize(("kind", "pooling"), [("bof", "average"), ("conv", "average"), ("conv", "max_average")])
def test_heads_are_quantized_where_asked(kind, pooling, request):
    if kind == "bof":
        net, ready, size = request.getfixturevalue("vgg"), request.getfixturevalue("vgg_in_int8"), 32
    else:
        net, size = network(kind=kind, pooling=pooling), 8
        ready = prepare(net, "int8_all", calibration=images(64, size))
    x = images(5, size, seed=2)
    with torch.inference_mode():
        assert distance(all_logits(ready, x), net(x)) < 0.1
        state = ready.segments[0]((x,))
        assert not torch.equal(ready.heads(state[0], 1), net.heads(state[0], 1))


@on_x86
def test_each_convolution_and_linear_layer_is_one_integer_operation(in_int8):
    assert in_int8.int8_execution in ("x86_kernels", "x86_kernels_7_bit")
    assert integer_operations(in_int8) == {
        "segment 1": 1,
        "segment 2": 1,
        "classifier": 1,
        "head 1": 0,
        "head 2": 0,
    }


@on_x86
def test_a_residual_block_with_its_projection():
    """ResNet-18: 17 convolutions, 3 projections, 1 linear layer."""
    net = network("resnet18", image_size=32)
    ready = prepare(net, "int8", calibration=images(64, 32))
    assert sum(integer_operations(ready).values()) == 21
    x = images(5, 32, seed=2)
    with torch.inference_mode():
        assert distance(all_logits(ready, x), net(x)) < 0.1


@register_backbone("residual_of_tests")
def residual(*, classes: int, image_size: int, channels: int, width: float) -> Segmented:
    """A block of torchvision, which calls its ReLU twice."""
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)]
    model = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), BasicBlock(8, 8), *head)
    exits = (ExitPoint("block", "all", "all", grid=1),)
    return Segmented(model, (FeatureSegment(*model[:2]),), FeatureClassifier(*model[2:]), exits)


@on_x86
def test_a_module_that_is_called_twice_is_two_operations():
    net = network("residual_of_tests", width=1.0)
    ready = prepare(net, "int8", calibration=images(64))
    assert integer_operations(ready) == {"segment 1": 3, "classifier": 1, "head 1": 0}
    x = images(5, seed=2)
    with torch.inference_mode():
        assert distance(all_logits(ready, x), net(x)) < 0.05


@on_x86
def test_integer_kernels_run(in_int8):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, torch.inference_mode():
        all_logits(in_int8, images(4))
    assert any("qconv" in event.key for event in profile.key_averages())


@on_x86
def test_the_simulation_agrees_with_the_kernels(tiny, in_int8, monkeypatch):
    monkeypatch.setattr("study.networks.quantization.int8_execution", lambda device: "simulated")
    simulated = prepare(tiny, "int8", calibration=images(100))
    assert simulated.int8_execution == "simulated" and not any(integer_operations(simulated).values())
    x = images(50, seed=4)
    with torch.inference_mode():
        least = 2e-3 if in_int8.int8_execution == "x86_kernels" else 2e-2  # that of seven bits, simulated with eight
        assert distance(all_logits(simulated, x), all_logits(in_int8, x)) < least


def test_quantizing_is_repeatable_and_changes_nothing(tiny, in_int8):
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    again = prepare(tiny, "int8", calibration=images(100))
    x = images(20)
    with torch.inference_mode():
        assert torch.equal(all_logits(again, x), all_logits(in_int8, x))
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny.state_dict().items())


def test_the_range_comes_from_the_calibration_images(tiny):
    """Ten times darker images leave most of an image's range outside."""
    narrow = prepare(tiny, "int8", calibration=images(100) / 10)
    x = images(50, seed=5)
    with torch.inference_mode():
        assert distance(all_logits(narrow, x), tiny(x)) > 0.1


def with_heads(precision: str, vgg: MultiExitNetwork, in_int8: RunnableNetwork) -> RunnableNetwork:
    """The quantized backbone with its heads in int8, or with those of the network in float."""
    if precision == "int8_all":
        return in_int8
    return replace(in_int8, precision=precision, exit_heads=in_fp32(vgg).exit_heads)


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "fp32"])
def test_a_live_run_equals_the_replay_of_its_trace(precision, vgg, request):
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bf16 arithmetic")
    if precision == "bf16":
        ready = prepare(vgg, precision)
    else:
        ready = with_heads(precision, vgg, request.getfixturevalue("vgg_in_int8"))
    x = images(40, 32, seed=6)
    logits = collect_logits(ready, x, lambda batch: batch, batch_size=7)
    # Thresholds fall with depth, so that images stop at many exits.
    thresholds = thresholds_from_logits(logits, "mean_max") * np.geomspace(3.0, 0.3, ready.exit_count)
    trace = Trace(logits, np.zeros(40, dtype=np.int64), thresholds)
    agreed, seen = [], set()
    for beta in np.quantile(ratio_table(trace, 0).stop, [0.2, 0.5, 0.8]):
        policy = Predictive(float(beta) * 1.001, 2)
        live, again = run_policy(ready, x, policy, trace.thresholds), replay(trace, policy)
        agreed.append((live.exit_index == again.exit_index).mean())
        seen |= set(again.exit_index.tolist())
    assert len(seen) > 3
    assert np.mean(agreed) >= 0.95, agreed  # a batch of another size may round otherwise


def rules_at_quantiles(trace: Trace, share: float) -> list[Policy]:
    """Both kinds of fitted rules, with bounds at quantiles of the scores: about ``share`` of the images stop at an exit
    that they try."""
    exits = range(1, trace.logits.shape[1])
    scores = table_for(trace, OptimalStopping(1, {}, 0.5)).stop
    tables = {
        exit: ExitTable(
            tuple(np.quantile(scores[:, exit - 1], [(1 - share) / 2, 1 - share]).tolist()),
            (min(exit + 3, len(exits) + 1), exit + 1, STOP),
        )
        for exit in exits
    }
    margins = table_for(trace, Hierarchical(1.0, 1, "margin")).stop
    tried = tuple(exits)[::2]
    betas = np.full(len(exits), np.inf)
    betas[::2] = np.quantile(margins[:, ::2], 1 - share, axis=0)
    return [OptimalStopping(1, tables, 0.5), HeadThresholds(tuple(betas.tolist()), tried, "margin", 0.5)]


@pytest.mark.parametrize("precision", ["int8", "int8_all"])
def test_fitted_rules_agree_with_the_replay_in_int8(precision, vgg, vgg_in_int8):
    ready, x = with_heads(precision, vgg, vgg_in_int8), images(60, 32, seed=7)
    logits = collect_logits(ready, x, lambda batch: batch, batch_size=7)
    trace = Trace(logits, np.zeros(60, dtype=np.int64), np.ones(ready.exit_count))
    for rule in (rule for share in (0.15, 0.4) for rule in rules_at_quantiles(trace, share)):
        live, again = run_policy(ready, x, rule, trace.thresholds), replay(trace, rule)
        assert len(set(again.exit_index.tolist())) > 3
        same = (live.exit_index == again.exit_index) & (live.predictions == again.predictions)
        assert same.mean() >= 0.95, rule.name  # a batch of another size may round otherwise


def test_bf16_keeps_heads_and_logits_in_fp32(tiny):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bf16 arithmetic")
    ready, x = prepare(tiny, "bf16"), images(30)
    with torch.inference_mode():
        state = ready.segments[0]((x,))
        assert state[0].dtype == torch.bfloat16
        assert torch.equal(ready.heads(state[0], 1), tiny.heads(state[0].float(), 1))
        logits = all_logits(ready, x)
    assert logits.dtype == torch.float32 and 0 < distance(logits, tiny(x)) < 0.02
    assert next(tiny.parameters()).dtype == torch.float32


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_parts_compute_the_same(tiny, in_int8):
    x = images(12)
    compiled = prepare(tiny, "int8", calibration=images(100), compiled=True)
    assert compiled.compiled
    with torch.inference_mode():
        assert distance(all_logits(compiled, x), all_logits(in_int8, x)) < 2e-3


def test_what_cannot_be_is_refused_in_one_line(tiny, monkeypatch):
    with pytest.raises(UserError, match="calibration split"):
        prepare(tiny, "int8")
    with pytest.raises(UserError, match="calibration split"):
        prepare(tiny, "int8", calibration=images(0))
    with pytest.raises(UserError, match="'int4' is unknown: use one of fp32, bf16, int8, int8_all"):
        check_precision("int4", CPU)
    monkeypatch.setattr("study.networks.quantization._has_bf16", lambda device: False)
    with pytest.raises(UserError, match="no bf16 arithmetic"):
        prepare(tiny, "bf16")


def test_one_calibration_image_is_enough(tiny):
    ready = prepare(tiny, "int8", calibration=images(1))
    assert all_logits(ready, images(3)).shape == (3, 3, 5)


def test_a_network_in_training_is_taken_to_evaluation():
    net = network().train()
    in_fp32(net)
    assert not net.training and torch.equal(net(images(4))[:1], net(images(4))[:1])


@pytest.mark.parametrize(("known", "expected"), [("avx512_vnni", "x86_kernels"), ("avx2", "x86_kernels_7_bit")])
def test_without_sums_in_32_bits_activations_have_seven(known, expected, tiny, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {known: True})
    assert int8_execution(CPU) == expected
    ready = prepare(tiny, "int8", calibration=images(64))
    assert ready.int8_execution == expected
    with torch.inference_mode():
        assert distance(all_logits(ready, images(5, seed=2)), tiny(images(5, seed=2))) < 0.05
