"""Exits that weigh the images that reach them: the weights, the epochs in which they hold, and the rule behind them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_network import TINY, TINY_INFO, image_set

from study import Trace, replay
from study.data.settings import DataInfo, Dataset, ImageSet
from study.errors import UserError
from study.execution import reached as reached_module
from study.execution import trial
from study.execution.reached import LOSS, images_that_reach, refuse_few_images
from study.execution.trial import train_in_folder
from study.execution.trial_plan import TrialPlan
from study.fronts.optimal_stopping import fit_optimal_stopping
from study.networks.construction import new_network
from study.networks.multi_exit import MultiExitNetwork
from study.networks.settings import HeadSettings, NetworkSettings
from study.traces.trace import SplitLogits
from study.training.loop import Trainer, TrainingState, train
from study.training.loss import training_loss, weights_by_difficulty, weights_by_reach
from study.training.settings import TrainingSettings

DATASET = Dataset(
    info=TINY_INFO,
    train=image_set(50, 0, noise=200, step=25),
    calibration=image_set(60, 1, noise=200, step=25),
    validation=image_set(30, 2),
)
SETTINGS = TrainingSettings(
    mode="joint", reach=0.8, schedule_epochs=3, batch_size=20, learning_rate=0.01, precision="fp32"
)
PLAN = TrialPlan(
    phase="exits",
    network=NetworkSettings(backbone=TINY, head=HeadSettings(kind="linear")),
    training=SETTINGS,
    data_digest=TINY_INFO.digest,
)


def network() -> MultiExitNetwork:
    return new_network(PLAN.network, TINY_INFO, 0)


def by_brightness() -> np.ndarray:
    """Half of the images reach exit 2."""
    bright = DATASET.train.images.mean(axis=(1, 2, 3))
    return np.stack([np.ones(50, dtype=bool), bright > np.median(bright)])


def test_weights_by_hand() -> None:
    reached = torch.zeros(4, 40, dtype=torch.bool)
    reached[0] = True
    reached[1, :10] = True  # a quarter
    reached[2, :2] = True  # a twentieth counts as a tenth
    weights = weights_by_reach(reached, 0.5)
    torch.testing.assert_close(weights[0], torch.ones(40))
    assert weights[1, [0, 9, 10]].tolist() == [2.5, 2.5, 0.5]
    torch.testing.assert_close(weights[2, [0, 2]], torch.tensor([1 + 0.5 * 0.95 / 0.1, 1 - 0.5 * 0.05 / 0.1]))
    torch.testing.assert_close(weights[3], torch.ones(40))
    torch.testing.assert_close(weights.mean(dim=1), torch.ones(4))
    torch.testing.assert_close(weights_by_reach(reached, 0.0), torch.ones(4, 40))


def test_the_loss_of_an_exit_is_the_weighted_mean() -> None:
    made, images, labels = network().eval(), torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    weights = torch.rand(2, 6)
    with torch.no_grad():
        each = torch.stack(
            [torch.nn.functional.cross_entropy(one, labels, reduction="none") for one in made(images).unbind(1)]
        )
    expected = (weights * each[:2]).mean(dim=1).sum() + each[2].mean()
    settings = TrainingSettings(mode="joint")
    assert training_loss(made, images, labels, settings, weights=weights).item() == pytest.approx(float(expected))
    settings = replace(settings, difficulty=0.5)
    both = weights * weights_by_difficulty(each[2], 2, 0.5)
    expected = (both * each[:2]).mean(dim=1).sum() + each[2].mean()
    assert training_loss(made, images, labels, settings, weights=weights).item() == pytest.approx(float(expected))


def test_an_image_keeps_its_weight_in_any_order() -> None:
    """Half of the images, which are drawn in an order of the epoch, have a weight."""
    images, labels = torch.from_numpy(DATASET.train.images), torch.from_numpy(DATASET.train.labels)
    weights = torch.from_numpy(by_brightness()).float()
    seen: list[torch.Tensor] = []

    class Watched(Trainer):
        def _loss(
            self, images: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
        ) -> torch.Tensor:
            assert weights is not None
            seen.append(torch.stack([images.mean(dim=(1, 2, 3)), weights[1]]))
            return super()._loss(images, labels, weights)

    Watched(network(), replace(SETTINGS, crop_padding=0, batch_size=16), TINY_INFO).run_epoch(
        images, labels, 1, weights
    )
    brightness, own = torch.cat(seen, dim=1)
    assert len(own) == 50 and own.sum() == 25
    assert brightness[own == 1].min() > brightness[own == 0].max()


def test_reach_holds_in_the_last_epochs_and_a_resumed_run_ends_alike() -> None:
    asked: list[int] = []

    def trained(epochs: int, made: MultiExitNetwork, states: list[TrainingState]) -> MultiExitNetwork:
        def reached() -> np.ndarray:
            asked.append(len(states) + 1)
            return by_brightness()

        resume = states[-1] if states else None
        train(made, DATASET, SETTINGS, epochs=epochs, resume=resume, on_epoch=states.append, images_that_reach=reached)
        return made

    whole = trained(3, network(), [])
    assert asked == [2, 3]
    states: list[TrainingState] = []
    parts = trained(3, trained(2, network(), states), states)
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), parts.parameters(), strict=True))
    plain = network()
    train(plain, DATASET, replace(SETTINGS, reach=0.0), epochs=3)
    assert not torch.equal(next(plain.heads.parameters()), next(whole.heads.parameters()))


def test_backbones_and_mixed_images_have_no_reach() -> None:
    assert not any(replace(SETTINGS, mode="original").weighs_by_reach(epoch) for epoch in (1, 2, 3))
    with pytest.raises(UserError, match="reach asks for one exit an image: set mixup to 0"):
        replace(SETTINGS, mixup=0.1)


def noisy_answers(network: MultiExitNetwork, images: ImageSet, info: DataInfo) -> SplitLogits:
    """Logits that depend on the image alone; each exit knows the label better than the exit before."""
    noise = np.stack([np.random.default_rng(list(one.tobytes())).normal(size=(3, 3)) for one in images.images])
    known = np.array([2.0, 3.0, 4.0])[:, None] * np.eye(3)[images.labels][:, None, :]
    return SplitLogits((noise + known).astype(np.float32), images.labels)


def test_the_rule_is_the_cheapest_within_a_point_on_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reached_module, "trace_images", noisy_answers)
    found = images_that_reach(network(), DATASET, PLAN)
    monkeypatch.setattr(reached_module, "_AT_ONCE", 7)
    np.testing.assert_array_equal(images_that_reach(network(), DATASET, PLAN), found)

    def trace_of(images: ImageSet) -> Trace:
        split = noisy_answers(network(), images, TINY_INFO)
        return Trace(split.logits, split.labels, np.ones(2))

    costs = reached_module.work_of(PLAN.network, TINY_INFO).flop_costs()
    own = trace_of(DATASET.calibration)
    walks = [(rule, replay(own, rule)) for rule in fit_optimal_stopping(own, costs)]
    enough = [(rule, walk) for rule, walk in walks if walk.accuracy(own.labels) >= own.classic_accuracy - LOSS]
    assert 0 < len(enough) < len(walks)
    cheapest, _ = min(enough, key=lambda pair: costs.per_sample(pair[1], "flops").mean())
    np.testing.assert_array_equal(found, replay(trace_of(DATASET.train), cheapest).tried.T)
    assert 0 < found.mean() < 1


def test_too_few_calibration_images_are_told_before_the_training() -> None:
    few = replace(DATASET, calibration=image_set(7, 1))
    with pytest.raises(UserError, match=r"reach: 7 calibration images are too few .* needs 8; set data.calibration"):
        refuse_few_images(SETTINGS, few)
    for training in (replace(SETTINGS, reach=0.0), replace(SETTINGS, mode="original")):
        refuse_few_images(training, few)
    refuse_few_images(SETTINGS, replace(DATASET, calibration=image_set(8, 1)))
    assert images_that_reach(network(), replace(DATASET, calibration=image_set(8, 1)), PLAN).shape == (2, 50)


def test_a_trial_asks_its_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def watched(made: MultiExitNetwork, dataset: Dataset, plan: TrialPlan) -> np.ndarray:
        asked.append(made.exit_count == 2 and dataset is DATASET and plan is PLAN)
        return by_brightness()

    monkeypatch.setattr(trial, "images_that_reach", watched)
    train_in_folder(PLAN, DATASET, None, epochs=3, device=torch.device("cpu"))
    assert asked == [True, True], "in the last two of three epochs"
