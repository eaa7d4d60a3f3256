"""An exported network walks as the study's live network, in batches of any size and with any compaction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.exports import export_of, small_network
from support.tiny_network import TINY

from study import Classic, EarlyExit, OptimalStopping, Placed, Predictive, Static, UserError
from study.deploy.folder import Export
from study.networks.multi_exit import MultiExitNetwork
from study.networks.precisions import Precision
from study.networks.quantization import check_precision, int8_execution, prepare
from study.policies.base import Policy
from study.policies.criteria import confidence
from study.policies.live import run_policy
from study.policies.optimal_stopping import STOP, ExitTable
from study.policies.thresholds import thresholds_from_logits
from study.traces.collect import collect_logits

CPU = torch.device("cpu")
IMAGES = 24


@pytest.fixture(scope="module", params=[("vgg11", "bof"), ("resnet18", "separable")], ids=lambda pair: pair[0])
def network(request: pytest.FixtureRequest) -> MultiExitNetwork:
    return small_network(*request.param)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(IMAGES, 1, 32, 32) * torch.linspace(0.2, 3.0, IMAGES).reshape(-1, 1, 1, 1)


def thresholds_of(network: MultiExitNetwork, images: torch.Tensor) -> np.ndarray:
    return thresholds_from_logits(collect_logits(network, images, lambda batch: batch), "mean_max")


def between(network: Any, images: torch.Tensor, exit: int, criterion: Any, share: float = 0.5) -> float:
    """A score that this share of the images does not reach at an exit, in the middle of the widest gap nearby."""
    logits = collect_logits(network, images, lambda batch: batch)[:, exit - 1]
    scores = np.sort(confidence(logits, criterion))
    near = range(int(share * len(scores)) - 3, int(share * len(scores)) + 3)
    place = max(near, key=lambda one: scores[one + 1] - scores[one])
    return float((scores[place] + scores[place + 1]) / 2)


def policies(network: MultiExitNetwork, images: torch.Tensor) -> list[Policy]:
    exits = network.exit_count
    low, high = (between(network, images, 3, "log_margin", share) for share in (0.3, 0.7))
    jumping = {
        1: ExitTable((between(network, images, 1, "log_margin"),), (4, 3)),
        3: ExitTable((low, high), (4, 6, STOP)),
        4: ExitTable((), (6,)),
        6: ExitTable((), (STOP,)),
    }
    adaptive: list[Policy] = [OptimalStopping(1, jumping, 0.5)]
    if exits < 14:
        betas = tuple(np.linspace(1.3, 0.9, exits).tolist())
        adaptive += [
            Predictive(betas, exits - 5, max_jump=2, overshoot="classifier"),
            Placed(2, [1, 3, 4], "patience"),
            Classic(),
        ]
    return [*adaptive, Placed(between(network, images, 2, "max_softmax"), [2, 3, exits - 1], "max_softmax")]


def test_walks_are_those_of_the_study(network: MultiExitNetwork, images: torch.Tensor) -> None:
    thresholds, runnable = thresholds_of(network, images), prepare(network, "fp32")
    exits_seen: set[int] = set()
    for policy in policies(network, images):
        expected = run_policy(network, images, policy, thresholds)
        export = export_of(runnable, policy, thresholds)
        for compact_below, size in ((1.0, 1), (0.5, IMAGES), (0.0, IMAGES), (1.0, IMAGES)):
            model = EarlyExit(export, CPU, compile=False, compact_below=compact_below)
            found = [model.run(batch) for batch in images.split(size)]
            for own, other in (("exits", "exit_index"), ("classes", "predictions"), ("tried", "tried")):
                together = np.concatenate([getattr(one, own) for one in found])
                np.testing.assert_array_equal(together, getattr(expected, other), err_msg=f"{policy} {own}")
            steps = np.concatenate([one.engine_steps for one in found])
            np.testing.assert_array_equal(steps, expected.engine_steps)
        exits_seen |= set(expected.exit_index.tolist())
        np.testing.assert_allclose(
            model.flops(found[0]),
            found[0].exits + found[0].tried.sum(axis=1) + found[0].engine_steps,
        )
    assert len(exits_seen) > 3


def test_only_what_the_policy_may_run_is_held(network: MultiExitNetwork, images: torch.Tensor) -> None:
    thresholds = thresholds_of(network, images)

    def held(policy: Policy) -> Export:
        return export_of(prepare(network, "fp32"), policy, thresholds)

    cut, whole = held(Static(3)), held(Placed(1.0, [3, 5]))
    assert (cut.tried, len(cut.parts)) == ((3,), 1)
    assert (whole.tried, len(whole.parts)) == ((3, 5), 3)
    size = {name: sum(one.numel() for one in export.tensors.values()) for name, export in (("c", cut), ("w", whole))}
    assert size["c"] < size["w"] / 5
    assert "batch_norm.default" not in str(cut.parts), "folded into the convolutions"


def test_int8_runs_by_the_kernels_of_the_study_and_answers_as_it() -> None:
    network = small_network(TINY, "linear")
    torch.manual_seed(1)
    images = torch.randn(IMAGES, 1, 32, 32)
    thresholds = np.ones(network.exit_count)
    policy = Placed(between(network, images, 1, "max_softmax"), [1], "max_softmax")
    expected = run_policy(prepare(network, "int8", calibration=images), images, policy, thresholds)
    model = EarlyExit(
        export_of(prepare(network, "int8", calibration=images, lowered=False), policy, thresholds),
        CPU,
        compile=False,
        compact_below=1.0,
    )
    assert (model.precision, model.int8_execution) == ("int8", int8_execution(CPU))
    found = model.run(images)
    assert (found.exits == expected.exit_index).mean() >= 0.95
    assert (found.classes == expected.predictions).mean() >= 0.95
    assert len(set(found.exits.tolist())) > 1


def test_bf16_answers_as_the_study() -> None:
    try:
        check_precision("bf16", CPU)
    except UserError as error:
        pytest.skip(str(error))
    network = small_network("vgg11", "linear")
    torch.manual_seed(1)
    images = torch.randn(IMAGES, 1, 32, 32)
    thresholds, policy = np.ones(network.exit_count), Placed(0.215, [2, 4], "max_softmax")
    runnable = prepare(network, "bf16")
    expected = run_policy(runnable, images, policy, thresholds)
    found = EarlyExit(export_of(runnable, policy, thresholds), CPU, compile=False, compact_below=1.0).run(images)
    assert (found.exits == expected.exit_index).mean() >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "precision", "tried"), [("vgg11", "fp32", [2]), (TINY, "int8_all", [1]), ("resnet18", "int8", [3])]
)
def test_a_compiled_model_answers_the_same(backbone: str, precision: Precision, tried: list[int]) -> None:
    network = small_network(backbone, "linear", channels=3)
    torch.manual_seed(1)
    images = torch.randn(IMAGES, 3, 32, 32)
    thresholds = np.ones(network.exit_count)
    policy = Placed(between(network, images, tried[0], "max_softmax"), tried, "max_softmax")
    export = export_of(prepare(network, precision, calibration=images, lowered=False), policy, thresholds)
    eager, compiled = (EarlyExit(export, CPU, compile=one, compact_below=1.0) for one in (False, True))
    for size in (IMAGES, 5, 1):
        batch = images[:size]
        np.testing.assert_array_equal(eager.run(batch).exits, compiled.run(batch).exits)
        np.testing.assert_allclose(eager.run(batch).confidences, compiled.run(batch).confidences, rtol=1e-4)
    assert len(set(eager.run(images).exits.tolist())) > 1


def test_confidences_and_names_are_those_of_the_stopping_exit(images: torch.Tensor) -> None:
    network = small_network("vgg11", "linear")
    model = EarlyExit(
        export_of(prepare(network, "fp32"), Static(2), np.ones(network.exit_count)),
        CPU,
        compile=False,
        compact_below=1.0,
    )
    found = model.run(images)
    logits = torch.from_numpy(collect_logits(network, images, lambda batch: batch)[:, 1])
    np.testing.assert_allclose(found.confidences, logits.softmax(1).amax(1).numpy(), rtol=1e-4)
    assert found.names == tuple("abcde"[one] for one in found.classes)


def test_parts_that_do_not_fit_together_are_refused() -> None:
    network = small_network("vgg11", "linear")
    export = export_of(prepare(network, "fp32"), Placed(1.0, [2, 4]), np.ones(network.exit_count))
    with pytest.raises((ValueError, RuntimeError)):
        EarlyExit(replace(export, parts=export.parts[::-1]), CPU, compile=False, compact_below=1.0)
    with pytest.raises(ValueError, match=r"the head of exit 2 gives \(2, 5\) for two images of 3 classes"):
        EarlyExit(replace(export, class_names=tuple("abc")), CPU, compile=False, compact_below=1.0)
    with pytest.raises(UserError, match="compact_below"):
        EarlyExit.load("nowhere", compact_below=2.0)


def test_a_model_and_its_answers_are_shown_in_a_few_words(images: torch.Tensor) -> None:
    network = small_network("vgg11", "linear")
    export = export_of(prepare(network, "fp32"), Placed(0.22, [2, 4], "max_softmax"), np.ones(network.exit_count))
    model = EarlyExit(export, CPU, compile=False, compact_below=1.0)
    assert repr(model) == f"<EarlyExit of 5 classes: fp32 on cpu, tries exits 2, 4 of {network.exit_count}>"
    assert "tried" not in repr(model.run(images))


def test_batches_of_another_size_or_shape_are_refused(images: torch.Tensor) -> None:
    network = small_network("vgg11", "linear")
    export = export_of(prepare(network, "fp32"), Static(2), np.ones(network.exit_count))
    model = EarlyExit(export, CPU, compile=False, compact_below=1.0)
    with pytest.raises(UserError, match="batch_size is 0, but must be at least 1"):
        model.predict([], batch_size=0)
    with pytest.raises(UserError, match=r"shape \[24, 32, 32\], but must be \[B, 1, 32, 32\]"):
        model.normalized(images[:, 0])
